"""Latents come back as they were written."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from helios_jax.media import LatentsWriter, MediaError, load_latents, save_latents

LATENTS = np.random.default_rng(0).normal(size=(2, 9, 4, 6, 16)).astype(np.float32)


def test_round_trip(tmp_path):
    """Values bit for bit, and the metadata."""
    save_latents(tmp_path / "x.safetensors", LATENTS, {"prompt": "a red ball", "seed": "0"})
    latents, metadata = load_latents(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(latents, LATENTS)
    assert latents.dtype == np.float32
    assert metadata == {"prompt": "a red ball", "seed": "0"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_bfloat16_on_a_device_is_written_as_float32(tmp_path):
    """The format is one, whatever the computation ran in; arrays of any memory order."""
    latents = jnp.asarray(LATENTS, jnp.bfloat16).transpose(0, 1, 3, 2, 4)
    save_latents(tmp_path / "x.safetensors", latents)
    read, metadata = load_latents(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read, np.asarray(latents, np.float32))
    assert metadata == {}


def test_wrong_suffix_or_folder_is_refused(tmp_path):
    """As for videos, before writing."""
    with pytest.raises(MediaError, match="latents are written to"):
        save_latents(tmp_path / "x.mp4", LATENTS)
    with pytest.raises(MediaError, match="does not exist"):
        save_latents(tmp_path / "missing/x.safetensors", LATENTS)


def test_unreadable_files_are_refused(tmp_path):
    """Missing, cut short, without latents, or of another shape."""
    file = tmp_path / "x.safetensors"
    with pytest.raises(MediaError, match="No such file"):
        load_latents(file)
    save_latents(file, LATENTS)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(MediaError, match="not a file of latents"):
        load_latents(file)
    safetensors.numpy.save_file({"x": LATENTS}, file)
    with pytest.raises(MediaError, match="not a file of latents"):
        load_latents(file)
    safetensors.numpy.save_file({"latents": LATENTS[0]}, file)
    with pytest.raises(MediaError, match=r"must be float32 \[B, T, H, W, C\]"):
        load_latents(file)


def test_whoever_may_read_new_files_may_read_latents(tmp_path):
    (tmp_path / "plain").touch()
    save_latents(tmp_path / "clip.safetensors", np.zeros((1, 1, 2, 2, 3), np.float32))
    assert (tmp_path / "clip.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite_are_refused_unless_asked_for(tmp_path, value):
    latents = np.zeros((1, 9, 2, 2, 4), np.float32)
    latents[0, 3, 1, 0, 2] = value
    save_latents(tmp_path / "a.safetensors", latents)
    with pytest.raises(MediaError, match=r"1 of 144 values are NaN or infinite.*--noverify"):
        load_latents(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(
        load_latents(tmp_path / "a.safetensors", verify=False)[0], latents
    )


def test_a_growing_file_can_be_read_after_every_chunk(tmp_path):
    """By ours and by safetensors itself; what was written before is not written again."""
    file = tmp_path / "x.safetensors"
    writer = LatentsWriter(file, chunks=9, metadata={"seed": "0"})
    for chunk in range(1, 9):
        before = file.read_bytes() if file.exists() else b""
        writer.write(LATENTS[:, chunk - 1 : chunk])
        latents, metadata = load_latents(file)
        np.testing.assert_array_equal(latents, LATENTS[:, :chunk])
        assert metadata == {"seed": "0"}
        assert len(safetensors.numpy.load_file(file)) == chunk
        if before:
            assert file.stat().st_size == len(before) + LATENTS[:, :1].nbytes


def test_a_finished_file_is_one_tensor(tmp_path):
    """The same, byte for byte of its tensors, as what is saved at once; nothing else is left."""
    writer = LatentsWriter(tmp_path / "x.safetensors", chunks=3, metadata={"seed": "0"})
    for chunk in np.split(LATENTS, 3, axis=1):
        writer.write(chunk)
    writer.finish()
    tensors = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert list(tensors) == ["latents"]
    np.testing.assert_array_equal(tensors["latents"], LATENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("finished", [False, True])
def test_a_file_is_cut_back_and_gone_on_with(tmp_path, finished):
    """To the frames that are kept, whether it was finished or not."""
    file = tmp_path / "x.safetensors"
    writer = LatentsWriter(file, chunks=3)
    for chunk in np.split(LATENTS, 3, axis=1):
        writer.write(chunk)
    if finished:
        writer.finish()
    writer = LatentsWriter(file, chunks=3, keep_frames=6)
    np.testing.assert_array_equal(load_latents(file)[0], LATENTS[:, :6])
    writer.write(LATENTS[:, :3])
    np.testing.assert_array_equal(load_latents(file)[0][:, 6:], LATENTS[:, :3])


def test_what_a_killed_process_left_behind_the_end_is_ignored(tmp_path):
    """Half a chunk, before the header tells of it."""
    file = tmp_path / "x.safetensors"
    writer = LatentsWriter(file, chunks=3)
    writer.write(LATENTS)
    with file.open("ab") as half:
        half.write(b"x" * 100)
    np.testing.assert_array_equal(load_latents(file)[0], LATENTS)


def with_header(path, header, data=b"", length=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(content) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + content + data)
    return path


def entry(shape, *offsets):
    return {"latents": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [b"[" * 10**5, b'{"latents":' * 10**4, entry([2**32, 2**32, 1, 1, 1], 0, 0),
     entry([10**30, 0, 1, 1, 1], 0, 0), entry([1] * 100, 0, 4), entry([1, 1, 1, 1, 1], -8, -4),
     entry([1.0, 1, 1, 1, 1], 0, 4), entry("11111", 0, 4), {"latents": 5}, {"latents": []}],
)  # fmt: skip
def test_a_header_that_lies_is_one_line(tmp_path, header):
    with pytest.raises(MediaError, match="not a file of latents"):
        load_latents(with_header(tmp_path / "x.safetensors", header, bytes(64)))


def test_a_header_as_long_as_the_disk_is_not_read(tmp_path):
    path = with_header(tmp_path / "x.safetensors", b"", length=2**39)
    os.truncate(path, 2**40)  # takes no room
    with pytest.raises(MediaError, match="it has no header"):
        load_latents(path)
