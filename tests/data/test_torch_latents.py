"""The PyTorch implementation's latents become records, and nothing in their pickles runs."""

import os

import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image

from helios_jax.data.errors import RecordError
from helios_jax.data.info import DatasetInfo
from helios_jax.data.torch_latents import info_of, read_torch_latents

FLOAT32 = np.dtype(np.float32)


def content(**changes):
    embed = torch.zeros(512, 6, dtype=torch.bfloat16)
    embed[:7] = torch.randn(7, 6, generator=torch.manual_seed(0)).to(torch.bfloat16)
    embed[3] = 0  # a row of zeros amid the prompt ends nothing
    image = Image.fromarray(np.zeros((32, 48, 3), np.uint8))
    latents = torch.randn(4, 16, 9, 4, 6, generator=torch.manual_seed(1))
    return {
        "vae_latent": latents,
        "prompt_embed": embed,
        "prompt_raw": "a cat",
        "first_frames_image": image,
        **changes,
    }


def test_every_value_is_in_its_place(tmp_path):
    """Channels last, the text without the zeros behind it, the prompt, and the number of frames
    that the file's name says.
    """
    path = tmp_path / "cat_0-7_140_32_48.pt"
    given = content()
    torch.save(given, path)
    record = read_torch_latents(path, FLOAT32)
    np.testing.assert_array_equal(
        record.latents, given["vae_latent"].permute(0, 2, 3, 4, 1).numpy()
    )
    assert record.text.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        record.text.astype(np.float32), given["prompt_embed"][:7].float().numpy()
    )
    assert record.prompt == "a cat"
    assert record.metadata == {
        "id": "cat_0-7_140_32_48",
        "source": "cat_0-7_140_32_48.pt",
        "frames": 140,
    }
    info = info_of(record)
    assert info == DatasetInfo(
        section_frames=9, latent_channels=16, text_width=6, text_dtype="bfloat16"
    )
    info.check(record)
    rounded = read_torch_latents(path, np.dtype(ml_dtypes.bfloat16))
    assert rounded.latents.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_of_files_are_passed_over_too(tmp_path, suffix):
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        torch.save(content(first_frames_image=image), tmp_path / "a.pt")
    assert read_torch_latents(tmp_path / "a.pt", FLOAT32).metadata["frames"] == 0


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_asks_for_more_is_refused_and_does_nothing(tmp_path):
    torch.save(content(first_frames_image=Attack(tmp_path / "made")), tmp_path / "a.pt")
    with pytest.raises(RecordError, match="asks to run"):
        read_torch_latents(tmp_path / "a.pt", FLOAT32)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            dict(vae_latent=torch.zeros(16, 21, 4, 6)),
            r"vae_latent is \[16, 21, 4, 6\], not a tensor \[S, C, T, H, W\]",
        ),
        (dict(vae_latent=None), "vae_latent is NoneType"),
        (dict(prompt_embed=torch.zeros(512, 6)), "prompt_embed is all zero"),
        (dict(prompt_raw=" "), "prompt_raw is ' ', not a caption"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, match):
    torch.save(content(**changes), tmp_path / "a.pt")
    with pytest.raises(RecordError, match=match):
        read_torch_latents(tmp_path / "a.pt", FLOAT32)


def test_a_damaged_file_is_named(tmp_path):
    torch.save(content(), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-300])
    with pytest.raises(RecordError, match=r"a\.pt is truncated"):
        read_torch_latents(tmp_path / "a.pt", FLOAT32)
