"""Whatever is in a file, reading it ends well or in one CheckpointError that names it."""

import json
import shutil

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from helios_jax.checkpoint import CheckpointError, load_config, load_params, save
from helios_jax.checkpoint.files import read_json, write_digests
from helios_jax.checkpoint.safetensors_files import read_file

from .tiny import CONFIG, random_params

SETTINGS = hypothesis.settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F7", "U8"]) | JSON,
        "shape": st.lists(st.integers(-2, 2**70), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-2, 2**70), min_size=2, max_size=2) | JSON,
    }
)
HEADER = st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), ENTRY | JSON, max_size=4)


def assert_ends_well(read, path):
    """``read()`` returns, or raises an error that names the file."""
    try:
        return read()
    except CheckpointError as error:
        message = str(error)
    assert str(path) in message
    return None


@SETTINGS
@hypothesis.given(HEADER, st.binary(max_size=16))
def test_any_header_of_a_safetensors_file(tmp_path, header, data):
    content = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    found = assert_ends_well(lambda: read_file(path), path)
    for tensor in found[0].values() if found else ():
        assert tensor.read().shape == tensor.shape


@SETTINGS
@hypothesis.given(st.data())
def test_any_change_of_a_safetensors_file(tmp_path, data):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.ones((2, 3)), "b": np.ones(5, np.float16)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found = assert_ends_well(lambda: read_file(path), path)
    for tensor in found[0].values() if found else ():
        assert tensor.read().shape == tensor.shape


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, "begins at byte 8"),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            "b begins at byte 4, not 8",
        ),
        ({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, "cannot have 8"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "cannot be read"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "cannot be read"),
        ({"__metadata__": []}, "cannot be read"),
        ([], "cannot be read"),
    ],
)
def test_headers_that_lie_are_told_from_those_that_cannot_be_read(tmp_path, header, says):
    content = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(16))
    with pytest.raises(CheckpointError, match=says):
        read_file(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"", b"\0"])
def test_json_of_any_kind_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json is not valid JSON") as error:
        read_json(path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with a VAE."""
    path = tmp_path_factory.mktemp("checkpoint") / "whole"
    save(path, CONFIG, {"vae": random_params(CONFIG, "vae")})
    return path


@SETTINGS
@hypothesis.given(st.data())
def test_any_change_of_any_file_of_a_checkpoint_is_found(checkpoint, tmp_path, data):
    """One byte of whatever file that is read."""
    copy = shutil.copytree(checkpoint, tmp_path / "copy", dirs_exist_ok=True)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    try:
        same = json.loads(content) == json.loads((checkpoint / file.name).read_text())
    except ValueError:
        same = False
    if same:  # another blank in digests.json
        return
    with pytest.raises(CheckpointError) as error:
        load_params(copy, "vae")
    assert str(copy) in str(error.value)


@SETTINGS
@hypothesis.given(
    values=st.dictionaries(st.sampled_from(["format", "version", "shared", "vae"]), JSON)
)
def test_any_configuration_is_read_or_named(checkpoint, tmp_path, values):
    copy = shutil.copytree(checkpoint, tmp_path / "copy", dirs_exist_ok=True)
    stored = json.loads((copy / "config.json").read_text()) | values
    (copy / "config.json").write_text(json.dumps(stored))
    write_digests(copy)
    assert_ends_well(lambda: load_config(copy), copy)


@SETTINGS
@hypothesis.given(JSON | st.fixed_dictionaries({"files": JSON, "identities": JSON}))
def test_any_digests_are_read_or_named(checkpoint, tmp_path, values):
    copy = shutil.copytree(checkpoint, tmp_path / "copy", dirs_exist_ok=True)
    (copy / "digests.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as error:
        load_config(copy)
    assert str(copy) in str(error.value)
