"""Videos under test: each metric gets its frames the way the original gets them."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.opencv import require_opencv
from helios_jax.evaluation.bench.readers import (
    frame_rate,
    read_frames,
    read_frames_by_opencv,
    read_single_frames,
    scale_for_judge,
)

Figures = dict[str, float | str | list[float]]
"""What a metric measures in a video, by name: numbers, a judge's answer, a curve over chunks."""


class Video:
    """A video under test, read when a metric asks for it.

    Args:
      path: a file in any format that ffmpeg knows.
      prompt: what it was made from; metrics that compare it with its text need it.
      most: frames to read at most: 81 makes a short video of a long one.
    """

    def __init__(self, path: str | os.PathLike, prompt: str | None = None, most: int | None = None):
        self.path = Path(path)
        self.prompt = prompt
        self.most = most
        self.figures: dict[str, dict[int, float]] = {}
        """Figures by name and frame that more than one metric uses, computed once."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @functools.cached_property
    def frames(self) -> UInt8[np.ndarray, "F Y X 3"]:
        """Frames of 640 columns, scaled in YUV by ffmpeg: what most metrics read.

        1 GB at 1,440 frames of 368x640. ``del video.frames`` frees it.
        """
        return read_frames(self.path, self.most)

    @property
    def opencv_frames(self) -> UInt8[np.ndarray, "F Y X 3"]:
        """Frames of 640 columns, decoded and scaled bilinearly by OpenCV: what smoothness reads.

        Read anew each time.
        """
        return read_frames_by_opencv(self.path, self.most)

    @functools.cached_property
    def fps(self) -> float | None:
        """Frames per second that the file names."""
        return frame_rate(self.path)

    @functools.cached_property
    def num_frames(self) -> int:
        """Frames that the container counts, cut to ``most``; a judge's are chosen by it."""
        cv2 = require_opencv("counting frames as HeliosBench does")
        counted = int(cv2.VideoCapture(str(self.path)).get(cv2.CAP_PROP_FRAME_COUNT))
        return counted if self.most is None else min(counted, self.most)

    def judged_frames(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "Y X 3"]]:
        """Single frames in RGB with a longer side of 512 pixels; those that cannot be read lack."""
        return read_single_frames(self.path, indices)


class FrameVideo(Video):
    """A video whose frames are in memory already; every metric gets the same ones.

    Its figures are not comparable with those of a file, which has lost something in compression.

    Args:
      frames: uint8 RGB.
      prompt: what it was made from.
      fps: frames per second.
    """

    def __init__(
        self,
        frames: UInt8[np.ndarray, "F Y X 3"],
        prompt: str | None = None,
        fps: float | None = None,
    ):
        super().__init__("frames in memory", prompt)
        self.frames = frames
        self.fps = fps
        self.num_frames = len(frames)

    @property
    def opencv_frames(self) -> UInt8[np.ndarray, "F Y X 3"]:
        """``frames``."""
        return self.frames

    def judged_frames(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "Y X 3"]]:
        """As :meth:`Video.judged_frames`."""
        return [
            scale_for_judge(self.frames[index]) for index in indices if index < len(self.frames)
        ]
