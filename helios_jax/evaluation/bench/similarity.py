"""How far a video is from another one, frame by frame: PSNR and SSIM."""

import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from helios_jax.evaluation.bench.errors import BenchError

WINDOW = 11
"""Pixels of SSIM's window."""
SIGMA = 1.5
"""Of its Gaussian."""
BRIGHTNESS = 0.01**2
CONTRAST = 0.03**2
"""SSIM's two constants, for values from 0 to 1."""
EQUAL = 100.0
"""The PSNR of equal frames, dB; it would be infinite."""

Pieces = Iterable[np.ndarray]
"""UInt8 [F, Y, X, 3] each."""


def compare_videos(video: Pieces, truth: Pieces) -> dict[str, float]:
    """Means over frames of PSNR, in dB, and SSIM; both videos come in pieces of any length.

    Raises:
      BenchError: if they differ in size or in the number of frames.
    """
    found: list[tuple[float, float]] = []
    for one, two in itertools.zip_longest(_frames(video), _frames(truth)):
        if one is None or two is None:
            raise BenchError(f"the two videos share {len(found)} frames, then one of them ends")
        if one.shape != two.shape:
            raise BenchError(f"the video's frames are {_size(one)}, the given ones {_size(two)}")
        if min(one.shape[:2]) < WINDOW:
            raise BenchError(f"SSIM needs frames of {WINDOW}x{WINDOW} at least, not {_size(one)}")
        found.append((float(psnr(one, two)), float(ssim(one, two))))
    if not found:
        raise BenchError("a video without frames cannot be compared")
    means = np.mean(found, axis=0)
    return {"psnr": float(means[0]), "ssim": float(means[1])}


@jax.jit
def psnr(frame: UInt8[Array, "Y X 3"], truth: UInt8[Array, "Y X 3"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio, dB; :data:`EQUAL` at most."""
    error = ((frame.astype(jnp.float32) - truth.astype(jnp.float32)) ** 2).mean() / 255**2
    return jnp.minimum(-10 * jnp.log10(jnp.maximum(error, 1e-30)), EQUAL)


@jax.jit
def ssim(frame: UInt8[Array, "Y X 3"], truth: UInt8[Array, "Y X 3"]) -> Float[Array, ""]:
    """Mean structural similarity of luma (Wang et al. 2004, eq. 13), where windows fit."""
    one = _luma(frame)
    two = _luma(truth)
    images = jnp.stack([one, two, one * one, two * two, one * two])
    mean_1, mean_2, square_1, square_2, product = _blur(images)
    variance_1 = square_1 - mean_1**2
    variance_2 = square_2 - mean_2**2
    covariance = product - mean_1 * mean_2
    light = (2 * mean_1 * mean_2 + BRIGHTNESS) / (mean_1**2 + mean_2**2 + BRIGHTNESS)
    return (light * (2 * covariance + CONTRAST) / (variance_1 + variance_2 + CONTRAST)).mean()


def _luma(frame: UInt8[Array, "Y X 3"]) -> Float[Array, "Y X"]:
    return frame.astype(jnp.float32) @ jnp.array([0.299, 0.587, 0.114]) / 255


def _blur(images: Float[Array, "N Y X"]) -> Float[Array, "N y x"]:
    """Gaussian means where the whole window lies inside."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    down = weights[None, None, :, None]
    across = weights[None, None, None, :]
    precise = dict(window_strides=(1, 1), padding="VALID", precision=jax.lax.Precision.HIGHEST)
    rows = jax.lax.conv_general_dilated(images[:, None], down, **precise)
    return jax.lax.conv_general_dilated(rows, across, **precise)[:, 0]


def _frames(pieces: Pieces) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    for piece in pieces:
        yield from piece


def _size(frame: UInt8[np.ndarray, "Y X 3"]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
