"""Latents on disk: one safetensors file with the tensor ``latents``, channels last, and a few
strings.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from helios_jax.media.ffmpeg import MediaError
from helios_jax.media.output import check_output, output_kind, staged
from helios_jax.types import Array, Float


def save_latents(
    path: str | os.PathLike,
    latents: Float[Array, "B T H W C"] | Float[np.ndarray, "B T H W C"],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write latents as float32; the file appears whole or not at all.

    Args:
      path: a ``.safetensors`` file.
      latents: normalized, as the transformer makes them.
      metadata: whatever should be kept with them (prompt, seed, ...).

    Raises:
      MediaError: if nothing can be written there.
    """
    if output_kind(path) != ".safetensors":
        raise MediaError(f"{path}: latents are written to .safetensors files")
    check_output(path)
    with staged(Path(os.path.abspath(path))) as partial:
        safetensors.numpy.save_file(
            {"latents": np.ascontiguousarray(latents, np.float32)}, partial, dict(metadata or {})
        )


def load_latents(
    path: str | os.PathLike, verify: bool = True
) -> tuple[Float[np.ndarray, "B T H W C"], dict[str, str]]:
    """Read what :func:`save_latents` wrote.

    Args:
      path: the file.
      verify: refuse NaN and infinite values, which would become a grey video.

    Returns:
      The latents, float32, and their metadata.

    Raises:
      MediaError: if the file is missing, damaged, or holds something else.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            latents = file.get_tensor("latents")
            metadata = file.metadata()
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise MediaError(f"{path}: not a file of latents: {error}") from error
    if latents.dtype != np.float32 or latents.ndim != 5 or not latents.size:
        raise MediaError(
            f"{path}: latents must be float32 [B, T, H, W, C], not {latents.dtype} "
            f"{list(latents.shape)}"
        )
    if verify and not np.isfinite(latents).all():
        count = latents.size - np.count_nonzero(np.isfinite(latents))
        raise MediaError(
            f"{path}: {count} of {latents.size} values are NaN or infinite: the file is damaged, "
            "or was sampled from broken weights; --noverify (verify=False) decodes it all the same"
        )
    return latents, metadata or {}
