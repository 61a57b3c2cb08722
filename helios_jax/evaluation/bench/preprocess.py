"""Frames as CLIP and ViCLIP take them: 224 pixels square from the middle, normalised.

The two metrics differ. Aesthetic resizes floats, whose overshoot beyond 0..255 stays; semantic
resizes bytes, so that the result is clamped and rounded. The resize is PyTorch's bicubic without
antialiasing (Keys 1981 with a = -0.75, borders clamped); ``jax.image.resize`` has a = -0.5 and is
off by 1.3 levels on average.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from helios_jax.types import Array, Float

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@functools.partial(jax.jit, static_argnames=("size", "as_bytes"))
def prepare(
    frames: UInt8[Array, "B Y X 3"], size: int = 224, as_bytes: bool = False
) -> Float[Array, "B y x 3"]:
    """Frames resized to a shorter side of ``size``, cropped to a square and normalised, float32.

    Args:
      frames: uint8 RGB.
      size: pixels of a side of the result.
      as_bytes: clamp and round after the resize, as resizing bytes does.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    sides = (int(size * height / short), int(size * width / short))
    rows, columns = (
        _cropped(bicubic_matrix(before, after), size)
        for before, after in zip((height, width), sides)
    )
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    resized = product("yh,bhxc->byxc", rows, frames.astype(jnp.float32))
    resized = product("xw,bywc->byxc", columns, resized)
    if as_bytes:
        resized = jnp.round(jnp.clip(resized, 0, 255))
    mean, std = (np.array(values, np.float32).reshape(1, 1, 1, 3) for values in (MEAN, STD))
    return (resized / 255 - mean) / std


def bicubic_matrix(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """The matrix that resizes an axis of ``before`` pixels to ``after``."""
    matrix = np.zeros((after, before))
    scale = np.float32(before / after)
    for row in range(after):
        centre = scale * np.float32(row + 0.5) - np.float32(0.5)  # in float32, as PyTorch has it
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            matrix[row, min(max(tap, 0), before - 1)] += _kernel(float(abs(centre - tap)))
    return matrix.astype(np.float32)


def _kernel(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return 0.0


def _cropped(matrix: Float[np.ndarray, "n m"], size: int) -> Float[np.ndarray, "k m"]:
    """The rows of a resize that a crop from the middle keeps."""
    start = round((len(matrix) - size) / 2)
    return matrix[start : start + size]
