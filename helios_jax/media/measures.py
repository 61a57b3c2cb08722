"""Figures of frames that need no weights: brightness, colour, sharpness, change, motion.

The statistics of a video while it is made and the measures of a finished one are both made of them.
Luma is BT.601's; what is not said to be in pixels is a share of the full range, 0 to 1.
"""

import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from helios_jax.media.flow import PairFlow, plain_flow

FRAME_SERIES = (
    "brightness",
    "contrast",
    "red",
    "green",
    "blue",
    "saturation",
    "sharpness",
    "clipped",
)
"""Figures of a frame."""
STEP_SERIES = ("change", "motion_length")
"""Figures of two frames that follow one another, beside the components of the flow."""
TILES = 8
"""Rows and columns of tiles; a thumbnail has two pixels of each."""

Luma = UInt8[np.ndarray, "Y X"]


def measure_frame(
    frame: UInt8[np.ndarray, "Y X 3"],
) -> tuple[Luma, Float[np.ndarray, "16 16"], Mapping[str, float]]:
    """Luma, a thumbnail of it, and :data:`FRAME_SERIES`.

    ``contrast`` is the standard deviation of luma; ``saturation`` that of HSV, (max - min) / max of
    the three colours; ``sharpness`` the mean difference of neighbouring pixels, across and down;
    ``clipped`` the share of values at either end of the range.
    """
    luma, thumbnail, found = jax.device_get(_look(frame))
    return luma, thumbnail, {name: float(value) for name, value in found.items()}


def measure_step(
    before: Luma, after: Luma, flow: Callable[[Luma, Luma], PairFlow] = plain_flow
) -> dict[str, float]:
    """:data:`STEP_SERIES` of two frames' luma, and the mean flow, pixels.

    ``change`` is their mean difference, ``motion_length`` the mean length of the flow, pixels.
    """
    moved = flow(before, after)
    return {
        "change": float(np.abs(after.astype(np.int16) - before).mean() / 255),
        "motion_length": moved.length,
        "flow_x": moved.x,
        "flow_y": moved.y,
    }


def chunk_means(frames: UInt8[np.ndarray, "F Y X 3"]) -> dict[str, float]:
    """The mean of each series over a chunk of frames; of a single frame, it moves by nothing."""
    rows = [measure_frame(frame) for frame in frames]
    found = {name: float(np.mean([row[2][name] for row in rows])) for name in FRAME_SERIES}
    steps = [measure_step(one[0], two[0]) for one, two in itertools.pairwise(rows)]
    for name in STEP_SERIES:
        found[name] = float(np.mean([step[name] for step in steps])) if steps else 0.0
    return found


@jax.jit
def _look(
    frame: UInt8[Array, "Y X 3"],
) -> tuple[UInt8[Array, "Y X"], Float[Array, "16 16"], dict[str, Float[Array, ""]]]:
    pixels = frame.astype(jnp.float32) / 255
    luma = pixels @ jnp.array([0.299, 0.587, 0.114])
    top = pixels.max(-1)
    low = pixels.min(-1)
    levels = frame.astype(jnp.float32)  # whose differences are exact
    down = jnp.abs(jnp.diff(levels, axis=0))
    across = jnp.abs(jnp.diff(levels, axis=1))
    found = {
        "brightness": luma.mean(),
        "contrast": luma.std(),
        "red": pixels[..., 0].mean(),
        "green": pixels[..., 1].mean(),
        "blue": pixels[..., 2].mean(),
        "saturation": ((top - low) / jnp.maximum(top, 1e-3)).mean(),
        "sharpness": (down.mean() + across.mean()) / 255,
        "clipped": ((frame == 0) | (frame == 255)).mean(dtype=jnp.float32),
    }
    thumbnail = jax.image.resize(luma, (2 * TILES, 2 * TILES), "linear")
    return jnp.round(luma * 255).astype(jnp.uint8), thumbnail, found
