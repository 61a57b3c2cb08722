"""Which frames of a video each metric looks at.

The rules are the original's, with their roundings; F is the number of frames that were read.
"""

import itertools
from collections.abc import Mapping

import numpy as np

CHUNK = 33
"""Frames that Helios makes at a time; a curve has one point for each chunk."""

SHARE = 0.15
"""The part of a video that drift compares at either end."""


def middle_frames(num_frames: int, count: int = 8) -> list[int]:
    """The middle frame of each of ``count`` equal intervals of a whole video.

    Of a video with fewer frames there are as many intervals, and the last index is repeated.
    """
    intervals = min(num_frames, count)
    edges = np.linspace(0, num_frames, intervals + 1).astype(int)
    middles = [int(start + end - 1) // 2 for start, end in itertools.pairwise(edges)]
    return middles + middles[-1:] * (count - intervals)


def window_length(num_frames: int, least: int = 1) -> int:
    """Frames of the window at either end of a video: 15 %, rounded down, and ``least`` at least."""
    return max(least, int(SHARE * num_frames))


def semantic_windows(num_frames: int, count: int = 8) -> tuple[list[int], list[int]]:
    """``count`` frames of the first and of the last 15 %.

    The last window begins at ``int(0.85 F)`` and may be one frame longer than the first. A window
    shorter than ``count`` is widened to as many frames, where the video has them.
    """
    first = _spread(0, int(SHARE * num_frames), num_frames, count)
    last = _spread(int((1 - SHARE) * num_frames), num_frames, num_frames, count)
    return first, last


def strided_frames(start: int, end: int, count: int = 16) -> list[int]:
    """``count`` frames from ``start`` on, in whole strides that stay below ``end``.

    Fewer where there are fewer. The stride is rounded down, so that of a video of 81 frames the
    last five are never seen.
    """
    stride = max((end - start) // count, 1)
    return list(range(start, end, stride))[:count]


def curve(values: Mapping[int, float], chunk: int = CHUNK) -> list[float]:
    """The mean of each chunk of frames; a last chunk of one frame is left out.

    Args:
      values: by frame; a chunk in between must have some.
      chunk: frames.
    """
    chunks: dict[int, list[float]] = {}
    for frame, value in values.items():
        chunks.setdefault(frame // chunk, []).append(value)
    if len(chunks) > 1 and max(values) % chunk == 0:
        del chunks[max(chunks)]
    return [float(np.mean(chunks[index])) for index in sorted(chunks)]


def _spread(start: int, end: int, num_frames: int, count: int) -> list[int]:
    length = end - start
    if length >= count:
        return [int(start + index * length / count) for index in range(count)]
    if start == 0:
        end = min(count, num_frames)
    else:
        start = max(end - count, 0)
    return np.linspace(start, end - 1, count).astype(int).tolist()
