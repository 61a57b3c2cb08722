"""Latents that the PyTorch implementation has encoded, one ``.pt`` file a clip, as records.

Neither PyTorch nor any pickled code runs. A file holds ``vae_latent`` [S, C, T, H, W],
``prompt_embed`` [512, E] with zeros past the prompt's last token, ``prompt_raw``, and
``first_frames_image``, a Pillow image, which is not read. Its name ends in
``_{frames}_{height}_{width}``, in pixels.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.pth import read_dictionary
from helios_jax.checkpoint.safetensors_files import TorchTensor
from helios_jax.data.errors import DataError, RecordError
from helios_jax.data.info import DatasetInfo
from helios_jax.data.jobs import Job
from helios_jax.data.records import Record

SHAPES = {"vae_latent": ("S", "C", "T", "H", "W"), "prompt_embed": ("n", "E")}


# Images are left out; the oldest pickle protocols write their bytes by `_codecs.encode`.
_IGNORED = {
    ("PIL.Image", "Image"),
    ("PIL.PngImagePlugin", "PngImageFile"),
    ("PIL.JpegImagePlugin", "JpegImageFile"),
    ("PIL.ImagePalette", "ImagePalette"),
    ("_codecs", "encode"),
}


def read_torch_latents(path: Path, dtype: np.dtype) -> Record:
    """The record of a file.

    Args:
      path: the ``.pt`` file.
      dtype: of the latents; the text keeps its own.

    Raises:
      RecordError: if the file is damaged, or holds something else.
    """
    try:
        content = read_dictionary(path, _IGNORED)
    except CheckpointError as error:
        raise RecordError(str(error)) from error
    latents, text = (_tensor(path, content, name) for name in SHAPES)
    prompt = content.get("prompt_raw")
    if not isinstance(prompt, str) or not prompt.strip():
        raise RecordError(f"{path}: prompt_raw is {prompt!r}, not a caption")
    rows = np.flatnonzero(np.any(text != 0, axis=1))
    if not len(rows):
        raise RecordError(f"{path}: prompt_embed is all zero")
    frames = re.search(r"_(\d+)_\d+_\d+$", path.stem)
    metadata = {"id": path.stem, "source": path.name, "frames": int(frames[1]) if frames else 0}
    return Record(
        rearrange(latents, "s c t h w -> s t h w c").astype(dtype),
        text[: rows[-1] + 1],
        prompt,
        metadata,
    )


def torch_jobs(folder: Path, dtype: np.dtype) -> tuple[DatasetInfo, list[Job]]:
    """The records of the ``.pt`` files of a folder and of the folders in it.

    Args:
      folder: with the files.
      dtype: of the latents.

    Returns:
      What the dataset has in common, as the first readable file says, and a job a file.

    Raises:
      DataError: if not one file can be read.
    """
    files = sorted(folder.rglob("*.pt"))
    jobs = [_job(folder, file, dtype) for file in files]
    last = ""
    for job in jobs:
        try:
            return info_of(job.make()), jobs
        except RecordError as error:
            last = f"; the last: {error}"
    raise DataError(f"{folder} has no .pt files of latents{last}")


def info_of(record: Record) -> DatasetInfo:
    """What a dataset of records like this one has in common.

    Which VAE and text encoder made them is not known.
    """
    _, frames, _, _, channels = record.latents.shape
    return DatasetInfo(
        section_frames=frames,
        latent_channels=channels,
        text_width=record.text.shape[1],
        text_dtype=record.text.dtype.name,
    )


def _job(folder: Path, file: Path, dtype: np.dtype) -> Job:
    return Job(str(file.relative_to(folder)), lambda: read_torch_latents(file, dtype))


def _tensor(path: Path, content: Mapping[str, Any], name: str) -> np.ndarray:
    tensor = content.get(name)
    if not isinstance(tensor, TorchTensor) or len(tensor.shape) != len(SHAPES[name]):
        found = list(tensor.shape) if isinstance(tensor, TorchTensor) else type(tensor).__name__
        raise RecordError(f"{path}: {name} is {found}, not a tensor [{', '.join(SHAPES[name])}]")
    return tensor.read()
