"""Motion amplitude by OpenCV's dense optical flow (Farnebäck 2003), and the length of that flow.

HeliosBench averages the *signed* components of flow over x, y and pixels: a pan by (+3, -2) pixels
scores 0.1, and motions in opposite directions cancel. The mean length of flow, which does neither,
stands beside it. Both are pixels per frame at 640 columns, so that they depend on the frame rate.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.opencv import require_opencv

COLUMNS = 16
"""Columns to which the original scales a flow before it averages; the mean stays what it was."""


class Flows(NamedTuple):
    """What is kept of the flow of each pair of consecutive frames.

    Attributes:
      scaled: (x, y) flow in pixels, by area means of 16 columns.
      lengths: mean length of the full flow, pixels.
    """

    scaled: Float[np.ndarray, "P y x 2"]
    lengths: Float[np.ndarray, "P"]


def flows(frames: Iterable[UInt8[np.ndarray, "Y X 3"]]) -> Flows:
    """The flow of each pair of consecutive frames, with memory for two frames.

    Raises:
      BenchError: if OpenCV is not installed, or there are fewer than two frames.
    """
    cv2 = require_opencv("motion amplitude")
    grays = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames)
    scaled = []
    lengths = []
    for before, after in itertools.pairwise(grays):
        flow = farneback(before, after)
        height, width = before.shape
        size = (COLUMNS, int(height * COLUMNS / width))
        scaled.append(cv2.resize(flow, size, interpolation=cv2.INTER_AREA))
        lengths.append(np.sqrt(np.square(flow).sum(axis=-1)).mean(dtype=np.float64))
    if not scaled:
        raise BenchError("motion amplitude needs at least 2 frames")
    return Flows(np.stack(scaled), np.array(lengths))


def amplitude(flow: Flows) -> float:
    """HeliosBench's motion amplitude: the absolute value of the mean component of flow, pixels."""
    return float(np.abs(np.mean(np.mean(flow.scaled, axis=0))))


def mean_length(flow: Flows) -> float:
    """The mean length of flow over pixels and pairs of frames, pixels."""
    return float(np.mean(flow.lengths))


def farneback(
    before: UInt8[np.ndarray, "Y X"], after: UInt8[np.ndarray, "Y X"]
) -> Float[np.ndarray, "Y X 2"]:
    """Flow from one grey frame to the next, (x, y) in pixels, with HeliosBench's settings."""
    cv2 = require_opencv("motion amplitude")
    return cv2.calcOpticalFlowFarneback(
        before,
        after,
        None,
        pyr_scale=0.5,
        levels=3,
        winsize=15,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )
