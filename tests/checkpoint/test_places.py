"""Sources are found by path, in the Hugging Face cache, or by the name of a repository in it."""

import pytest

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.places import download_command, resolve

NAME = "BestWishYsh/Helios-Base"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache with one repository of two snapshots, the second of which is its main branch."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "xdg/huggingface/hub/models--BestWishYsh--Helios-Base"
    for commit in ("aaa", "bbb"):
        (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("aaa\n")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_repository_in_the_cache_is_its_main_snapshot(cache):
    assert resolve(NAME) == cache / "snapshots/aaa"
    assert resolve(cache) == resolve(cache / "snapshots") == cache / "snapshots/aaa"
    assert resolve(cache / "snapshots/bbb") == cache / "snapshots/bbb"


def test_without_a_reference_the_newest_snapshot_is_taken(cache):
    (cache / "refs/main").write_text("gone")
    (cache / "snapshots/bbb/touched").touch()
    assert resolve(NAME) == cache / "snapshots/bbb"


@pytest.mark.parametrize(("variable", "folder"), [("HF_HUB_CACHE", "own"), ("HF_HOME", "own/hub")])
def test_the_hubs_own_variables_say_where_the_cache_is(
    cache, tmp_path, monkeypatch, variable, folder
):
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    with pytest.raises(CheckpointError, match=f"cache .*own.*hf download {NAME}"):
        resolve(NAME)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    cache.rename(tmp_path / folder / cache.name)
    assert resolve(NAME) == tmp_path / folder / cache.name / "snapshots/aaa"


def test_a_folder_of_the_same_name_comes_before_the_cache(tmp_path):
    (tmp_path / NAME).mkdir(parents=True)
    assert str(resolve(NAME)) == NAME


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("Helios-Mid", "`hf download BestWishYsh/Helios-Mid --local-dir Helios-Mid`"),
        ("weights/helios-base", "`hf download BestWishYsh/Helios-Base --local-dir weights/"),
        ("somebody/model", "no such repository in the Hugging Face cache .*hf download somebody/m"),
        ("/nowhere/at/all", "/nowhere/at/all is not there: no such file or directory"),
    ],
)
def test_what_is_not_there_comes_with_the_command_that_downloads_it(source, says):
    with pytest.raises(CheckpointError, match=says) as error:
        resolve(source)
    assert "\n" not in str(error.value)


def test_a_cache_without_a_snapshot_says_so(cache):
    for commit in ("aaa", "bbb"):
        (cache / "snapshots" / commit).rmdir()
    with pytest.raises(CheckpointError, match=f"has no snapshot: .*hf download {NAME}"):
        resolve(NAME)


def test_missing_files_are_downloaded_into_their_place(cache, tmp_path):
    folder = cache / "snapshots/aaa/vae"
    assert download_command(folder, ["a", "b"]) == f"hf download {NAME} vae/a vae/b"
    local = tmp_path / "helios-mid"
    (local / "vae").mkdir(parents=True)
    (local / "model_index.json").touch()
    assert download_command(local / "vae", ["a"]) == (
        f"hf download BestWishYsh/Helios-Mid vae/a --local-dir {local}"
    )
    assert download_command(tmp_path, ["a"]) == f"hf download REPOSITORY a --local-dir {tmp_path}"
