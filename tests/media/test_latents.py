"""Latents come back as they were written."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from helios_jax.media import MediaError, load_latents, save_latents

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
    with pytest.raises(MediaError, match="not a file of latents"):
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
