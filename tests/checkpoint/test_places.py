"""Sources are found by path, in the Hugging Face cache, or by the name of a repository in it."""

import pytest

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.places import download_command, resolve, snapshot_remark

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


def test_a_revision_is_a_branch_a_tag_or_the_beginning_of_a_commit(cache):
    (cache / "refs/v1").write_text("bbb")
    for revision in ("v1", "bbb", "b"):
        assert resolve(f"{NAME}@{revision}") == cache / "snapshots/bbb"
    with pytest.raises(CheckpointError, match=f"hf download {NAME} --revision v2"):
        resolve(f"{NAME}@v2")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../..", b"a" * 10**6])
def test_a_damaged_reference_is_none_and_the_choice_is_said(cache, content):
    (cache / "refs/main").write_bytes(content)
    (cache / "snapshots/bbb/touched").touch()
    place = resolve(NAME)
    assert place == cache / "snapshots/bbb"
    assert "of 2 snapshots the newest is taken" in snapshot_remark(NAME, place)


def test_a_choice_that_somebody_made_is_not_said(cache):
    assert snapshot_remark(NAME, resolve(NAME)) is None
    (cache / "refs/main").unlink()
    path = cache / "snapshots/aaa"
    assert snapshot_remark(path, resolve(path)) is None
    assert snapshot_remark(f"{NAME}@bbb", resolve(f"{NAME}@bbb")) is None


@pytest.mark.parametrize(
    "name", ["https://huggingface.co/a/b", "hf://a/b", "https://huggingface.co/a/b/tree/main"]
)
def test_an_address_comes_with_the_command_that_downloads_it(name):
    with pytest.raises(CheckpointError, match="run `hf download a/b` and name a/b"):
        resolve(name)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "~nobody-here/x"])
def test_a_name_that_no_file_can_have_is_one_short_line(name):
    with pytest.raises(CheckpointError) as error:
        resolve(name)
    assert len(str(error.value)) < 400
