"""Measures that need no weights, of any video: motion, flicker, sharpness, colour, seams, loops.

Frames are looked at once, one after another, and only a few figures of each are kept, so memory
does not grow with the length of a video beyond about 2 kB a frame. Brightness is luma of BT.601;
whatever is not said to be in pixels is a share of the full range, 0 to 1.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.flow import choose_flow
from helios_jax.evaluation.bench.loops import find_loop
from helios_jax.evaluation.bench.windows import window_length
from helios_jax.media.measures import FRAME_SERIES, STEP_SERIES, TILES, measure_frame, measure_step

CHUNK = 33
"""Frames of a Helios chunk; curves have one point for each."""
STILL = 0.5 / 255
"""A step of less than half a level counts as none; what H.264 adds to a still picture is less."""
STATIC = 0.95
"""The share of still steps from which a video is called static."""
ABOUT = {
    "motion_amplitude": "size of the mean flow, all pixels and both directions, pixels a frame",
    "motion_length": "mean length of the flow, pixels a frame",
    "change": "mean difference of neighbouring frames",
    "flicker": "how far the brightness of a tile is from that of the frames beside it",
    "brightness": "mean luma",
    "contrast": "standard deviation of luma",
    "red": "mean of the channel",
    "green": "mean of the channel",
    "blue": "mean of the channel",
    "saturation": "mean of (max - min) / max of the three colours",
    "sharpness": "mean difference of neighbouring pixels, across and down",
    "clipped": "share of values at either end of the range",
    "seam": "a step from chunk to chunk over one within, median",
    "seam_worst": "the same, greatest",
    "still": "share of steps without a visible change",
    "static": "1 if the video stands still",
    "loop_period": "frames after which the picture returns, 0 where it does not",
    "loop_closeness": "how nearly it returns, 1 is exactly",
    "psnr": "peak signal-to-noise ratio against the given video, dB",
    "ssim": "structural similarity with the given video (Wang et al. 2004)",
    **{
        f"drift_{name}": f"{name.replace('_', ' ')} of the last 15 % less that of the first"
        for name in (*FRAME_SERIES, *STEP_SERIES)
    },
}
"""Every figure, and what it means."""


@dataclasses.dataclass(frozen=True)
class FreeMeasures:
    """The measures of a video.

    Attributes:
      num_frames, height, width: of the video.
      flow: the method, see :mod:`~helios_jax.evaluation.bench.flow`.
      values: figures by the names of :data:`ABOUT`; those that a video is too short for are absent.
      curves: a mean for each chunk, of each series.
    """

    num_frames: int
    height: int
    width: int
    flow: str
    values: Mapping[str, float]
    curves: Mapping[str, list[float]]

    def row(self) -> dict[str, Any]:
        """What goes into a result file, figures to six digits."""
        fields = dataclasses.asdict(self)
        fields["values"] = {name: _round(value) for name, value in self.values.items()}
        for name, curve in self.curves.items():
            fields["curves"][name] = [_round(value) for value in curve]
        return fields


class FreeMeter:
    """Takes the frames of a video piece by piece, and measures them.

    :func:`measure_free` does all of it; a program that makes a video can measure it on the way.
    """

    def __init__(self, flow: str = "plain"):
        """``flow``: the method; raises :class:`BenchError` where it cannot be had."""
        self._method = flow
        self._flow = choose_flow(flow)
        self._size: tuple[int, int] | None = None
        self._last: UInt8[np.ndarray, "Y X"] | None = None
        self._frames: dict[str, list[float]] = {name: [] for name in FRAME_SERIES}
        self._steps: dict[str, list[float]] = {
            name: [] for name in (*STEP_SERIES, "flow_x", "flow_y")
        }
        self._thumbnails: list[Float[np.ndarray, "16 16"]] = []

    def add(self, frames: np.ndarray) -> None:
        """Look at the next frames, uint8 [F, Y, X, 3].

        Raises:
          BenchError: if they are no RGB frames of eight bits, or of another size than those before.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise BenchError(
                f"frames must be uint8 [F, Y, X, 3], not {frames.dtype} {frames.shape}"
            )
        size = frames.shape[1:3]
        if self._size not in (None, size):
            raise BenchError(f"frames of {size} pixels after frames of {self._size}")
        self._size = size
        for frame in frames:
            self._add_frame(frame)

    def _add_frame(self, frame: UInt8[np.ndarray, "Y X 3"]) -> None:
        luma, thumbnail, found = measure_frame(frame)
        for name, value in found.items():
            self._frames[name].append(value)
        self._thumbnails.append(thumbnail)
        if self._last is not None:
            for name, value in measure_step(self._last, luma, self._flow).items():
                self._steps[name].append(value)
        self._last = luma

    def measures(self, chunk: int = CHUNK) -> FreeMeasures:
        """The measures of all frames so far; ``chunk`` frames make a point of the curves.

        Raises:
          BenchError: if no frame came.
        """
        if self._size is None or not self._thumbnails:
            raise BenchError("a video without frames cannot be measured")
        frames = {name: np.asarray(series) for name, series in self._frames.items()}
        steps = {name: np.asarray(series) for name, series in self._steps.items()}
        thumbnails = np.stack(self._thumbnails)
        values = {name: float(series.mean()) for name, series in frames.items()}
        if len(thumbnails) > 1:
            values |= _motion(steps)
        if len(thumbnails) > 2:
            values["flicker"] = _flicker(thumbnails)
        values |= _seams(steps["change"], chunk)
        values |= _drift({**frames, **{name: steps[name] for name in STEP_SERIES}})
        period, closeness = find_loop(thumbnails.reshape(len(thumbnails), (2 * TILES) ** 2))
        values |= {"loop_period": float(period), "loop_closeness": closeness}
        chunks = _chunks(len(thumbnails), chunk)
        curves: dict[str, list[float]] = {}
        for name, series in frames.items():
            curves[name] = [_mean(series[start:end]) for start, end in chunks]
        for name in STEP_SERIES:  # a step from chunk to chunk is in none of them, but a seam
            series = steps[name]
            curves[name] = [
                _mean(series[start : end - 1]) for start, end in chunks if end > start + 1
            ]
        height, width = self._size
        return FreeMeasures(len(thumbnails), height, width, self._method, values, curves)


def measure_free(
    pieces: Iterable[np.ndarray], flow: str = "plain", chunk: int = CHUNK
) -> FreeMeasures:
    """The measures of a video whose frames come in pieces [F, Y, X, 3] of any length."""
    meter = FreeMeter(flow)
    for piece in pieces:
        meter.add(piece)
    return meter.measures(chunk)


def _motion(steps: Mapping[str, Float[np.ndarray, "S"]]) -> dict[str, float]:
    still = float((steps["change"] < STILL).mean())
    return {
        "motion_amplitude": float(abs(steps["flow_x"].mean() + steps["flow_y"].mean()) / 2),
        "motion_length": float(steps["motion_length"].mean()),
        "change": float(steps["change"].mean()),
        "still": still,
        "static": float(still >= STATIC),
    }


def _flicker(thumbnails: Float[np.ndarray, "F 16 16"]) -> float:
    """Distance of each tile from the mean of its past and its future: steady motion has little."""
    tiles = thumbnails.reshape(len(thumbnails), TILES, 2, TILES, 2).mean((2, 4))
    return float(np.abs(tiles[1:-1] - (tiles[:-2] + tiles[2:]) / 2).mean())


def _seams(change: Float[np.ndarray, "S"], chunk: int) -> dict[str, float]:
    """The step across each boundary of chunks over the median step of the chunks beside it."""
    ratios = []
    for boundary in range(chunk, len(change) + 1, chunk):
        beside = np.concatenate(
            [
                change[max(boundary - chunk, 0) : boundary - 1],
                change[boundary : boundary + chunk - 1],
            ]
        )
        ratios.append(change[boundary - 1] / max(np.median(beside), STILL))
    if not ratios:
        return {}
    return {"seam": float(np.median(ratios)), "seam_worst": float(max(ratios))}


def _drift(series: Mapping[str, Float[np.ndarray, "F"]]) -> dict[str, float]:
    """The mean of the last 15 % less that of the first, of each series."""
    found = {}
    for name, values in series.items():
        length = window_length(len(values))
        if len(values) >= 2 * length:
            found[f"drift_{name}"] = float(values[-length:].mean() - values[:length].mean())
    return found


def _chunks(count: int, chunk: int) -> list[tuple[int, int]]:
    """Where each chunk begins and ends; a rest of one frame joins the last."""
    starts = [0, *range(chunk, count - 1, chunk)]
    return list(zip(starts, [*starts[1:], count]))


def _mean(values: Float[np.ndarray, "F"]) -> float:
    return float(values.mean())


def _round(value: float) -> float:
    return float(f"{value:.6g}")
