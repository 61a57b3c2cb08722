"""Each helios-nano goes to Diffusers and back as it was: configurations byte for byte, and how it
is sampled.
"""

import json
import shutil

import pytest

from helios_jax import nano
from helios_jax.checkpoint import CheckpointError, load_config
from helios_jax.checkpoint.convert import from_torch, to_diffusers
from helios_jax.checkpoint.sampling_file import SAMPLING

CHECKPOINTS = ("nano-base", "nano-mid", "nano")


def json_files(folder):
    """The content of every JSON file of a folder, by its place."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")
    }


@pytest.fixture(scope="module", params=CHECKPOINTS)
def journey(request, tmp_path_factory):
    """A nano, its Diffusers folder, what that becomes here, and its Diffusers folder again."""
    folder = tmp_path_factory.mktemp(request.param)
    source = nano.ASSETS / request.param
    to_diffusers(source, folder / "there", progress=False)
    from_torch(folder / "there", folder / "back", progress=False)
    to_diffusers(folder / "back", folder / "there_again", progress=False)
    return source, folder


def test_how_it_is_sampled_comes_back(journey):
    source, folder = journey
    assert load_config(folder / "back") == load_config(source)


def test_the_configurations_of_both_journeys_are_equal_byte_for_byte(journey):
    _, folder = journey
    there = json_files(folder / "there")
    assert SAMPLING in there
    assert there == json_files(folder / "there_again")


def test_the_checkpoint_is_the_same_byte_for_byte(journey):
    """All JSON files, but that the assets say which of them share a VAE, and for the order in which
    names of tensors are listed.
    """
    source, folder = journey
    back = json_files(folder / "back")
    config = json.loads((source / "config.json").read_text())
    config.pop("shared", None)
    assert back["config.json"] == (json.dumps(config, indent=2) + "\n").encode()
    assert json.loads(back["torch.json"]) == json.loads((source / "torch.json").read_bytes())
    shared = nano.ASSETS / "nano/tokenizer"
    assert json_files(folder / "back/tokenizer") == json_files(shared)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": [2, 2]}, r"steps=\(2, 2\) is not for the 3 stage"),
        ({"guidance": 1}, "guidance"),
        ({"fps": "24"}, "fps"),
    ],
)
def test_what_does_not_fit_in_the_file_is_refused(tmp_path, change, says):
    to_diffusers(nano.ASSETS / "nano", tmp_path / "there", progress=False)
    file = tmp_path / "there" / SAMPLING
    values = json.loads(file.read_text())
    values["sample"] |= change
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=says):
        from_torch(tmp_path / "there", tmp_path / "back", progress=False)
    assert not (tmp_path / "back").exists()


def test_a_folder_without_the_file_is_sampled_as_the_release_of_its_kind(tmp_path):
    to_diffusers(nano.ASSETS / "nano-base", tmp_path / "there", progress=False)
    (tmp_path / "there" / SAMPLING).unlink()
    from_torch(tmp_path / "there", tmp_path / "back", progress=False)
    shutil.rmtree(tmp_path / "there")
    assert load_config(tmp_path / "back").sample.steps == (50,)
