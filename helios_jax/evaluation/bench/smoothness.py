"""Motion smoothness: how well AMT-S foretells every other frame from its neighbours.

``1 - d / 255``, with d the mean difference, in levels, of the odd frames from what is made of the
even frames before and after. A still video is perfectly smooth; how much consecutive frames
differ at all, its temporal flicker, stands beside it.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.batches import in_batches
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.networks.amt import AMT, LEAST_SIDE
from helios_jax.evaluation.bench.networks.weights import read_amt
from helios_jax.evaluation.bench.video import Figures, Video
from helios_jax.evaluation.bench.windows import curve, window_length
from helios_jax.types import Array, DTypeLike, Float, Params

BATCH = 8
"""Pairs of frames on an accelerator at a time; one takes 0.22 GB at 384x640."""

LEAST_WINDOW = 4
"""Frames that a window of the drift has at least."""


@dataclasses.dataclass(frozen=True, eq=False)
class SmoothnessModel:
    """Foretells frames.

    Attributes:
      network: AMT-S.
      params: its parameters.
    """

    network: AMT
    params: Params

    @classmethod
    def read(cls, amt: str | os.PathLike, dtype: DTypeLike = jnp.float32) -> "SmoothnessModel":
        """Read the published file.

        Computes in float32 also on an accelerator: the score is one minus a small difference.

        Raises:
          CheckpointError: if it is something else.
        """
        return cls(AMT(dtype), read_amt(amt))

    def deviations(
        self, frames: UInt8[np.ndarray, "F Y X 3"], starts: Sequence[int]
    ) -> Float[np.ndarray, "n"]:
        """The mean differences, in levels, of frames ``start + 1`` from what was foretold.

        Raises:
          BenchError: if the frames are smaller than the network takes.
        """
        check_size(*frames.shape[1:3])
        run = functools.partial(_deviations, self.network, self.params)
        most = 1 if jax.default_backend() == "cpu" else BATCH
        triples = np.asarray(starts)[:, None] + np.arange(3)[None]
        return in_batches(run, frames, triples, most)


def smoothness(video: Video, model: SmoothnessModel) -> Figures:
    """The smoothness of a whole video, its curve over time, and its temporal flicker."""
    frames = video.opencv_frames
    deviations = _deviations_of(video, frames, model, range(0, len(frames) - 2, 2))
    return {
        "motion_smoothness_score": _score(deviations.values()),
        "temporal_flicker": temporal_flicker(frames),
        "curve": [1 - level / 255 for level in curve(deviations)],
    }


def smoothness_drift(video: Video, model: SmoothnessModel) -> Figures:
    """The smoothness of the first and of the last 15 % of frames, and their difference."""
    frames = video.opencv_frames
    count = len(frames)
    length = window_length(count, LEAST_WINDOW)
    if count < length:
        raise BenchError(f"{video.path}: drift of smoothness needs {length} frames, not {count}")
    first = range(0, length - 2, 2)
    last = range(count - length, count - 2, 2)
    start = _score(_deviations_of(video, frames, model, first).values())
    end = _score(_deviations_of(video, frames, model, last).values())
    return {
        "drift_motion_smoothness_score": abs(start - end),
        "start_motion_smoothness_score": start,
        "end_motion_smoothness_score": end,
        "signed_drift": end - start,
    }


def temporal_flicker(frames: UInt8[np.ndarray, "F Y X 3"]) -> float:
    """The mean absolute difference of consecutive frames, 0 to 1."""
    differences = [
        np.abs(after.astype(np.int16) - before).mean()
        for before, after in itertools.pairwise(frames)
    ]
    return float(np.mean(differences)) / 255


def check_size(height: int, width: int) -> None:
    """Refuse frames that AMT cannot take.

    Raises:
      BenchError: if a side, brought to a multiple of 16, is below 128 pixels: the coarsest
        correlation then has one row, and its positions are not numbers.
    """
    if min(-(-height // 16), -(-width // 16)) * 16 < LEAST_SIDE:
        raise BenchError(
            f"motion smoothness needs frames of at least {LEAST_SIDE} pixels each way,"
            f" not {height}x{width}"
        )


def _deviations_of(
    video: Video,
    frames: UInt8[np.ndarray, "F Y X 3"],
    model: SmoothnessModel,
    starts: range,
) -> dict[int, float]:
    """Deviations by the first frame of each triple; each is computed once for a video."""
    if not starts:
        raise BenchError(f"{video.path}: motion smoothness needs 3 frames, not {len(frames)}")
    known = video.figures.setdefault("smoothness", {})
    missing = [start for start in starts if start not in known]
    if missing:
        known |= zip(missing, model.deviations(frames, missing).tolist())
    return {start: known[start] for start in starts}


def _score(deviations: Iterable[float]) -> float:
    return (255 - float(np.mean([*deviations]))) / 255


@functools.partial(jax.jit, static_argnums=0)
def _deviations(
    network: AMT, params: Params, triples: UInt8[Array, "B 3 Y X 3"]
) -> Float[Array, "B"]:
    height, width = triples.shape[2:4]
    padding = [_split(-side % 16) for side in (height, width)]
    images = triples[:, ::2].astype(jnp.float32) / 255
    images = jnp.pad(images, ((0, 0), (0, 0), *padding, (0, 0)), mode="edge")
    made = cast(Array, network.apply({"params": params}, images[:, 0], images[:, 1]))
    (top, _), (left, _) = padding
    made = made[:, top : top + height, left : left + width]
    levels = jnp.floor(jnp.clip(made * 255, 0, 255))  # the original cuts off, it does not round
    return jnp.abs(triples[:, 1].astype(jnp.float32) - levels).mean(axis=(1, 2, 3))


def _split(padding: int) -> tuple[int, int]:
    """Padding on both sides; the odd pixel goes right or below."""
    return padding // 2, padding - padding // 2
