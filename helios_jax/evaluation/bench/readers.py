"""The three ways in which HeliosBench reads a file; they differ by a level or two.

All bring a video to 640 columns and keep its proportions, save the one for a judge. Its rate is not
looked at.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from jaxtyping import UInt8

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.opencv import require_opencv
from helios_jax.media.colors import make_graph, upright
from helios_jax.media.decoding import Contents, decode, read_contents
from helios_jax.media.ffmpeg import MediaError

WIDTH = 640
"""Columns to which videos are brought."""

JUDGED_SIDE = 512
"""Pixels of the longer side of a frame that a judge is shown."""

# Y'CbCr of limited range to R'G'B': R = y + a V, G = y - b U - c V, B = y + d U.
Matrix: TypeAlias = tuple[float, float, float, float]
BT601 = (1.596027, 0.391762, 0.812968, 2.017232)
BT709 = (1.792741, 0.213249, 0.532909, 2.112402)
NAMED_BT709 = 1
UNSPECIFIED = 2
"""The numbers in ITU-T H.273 of that matrix, and of none."""


def target_size(height: int, width: int) -> tuple[int, int]:
    """The rows and columns that a video of ``height`` by ``width`` is brought to.

    640 columns always, and rows in proportion, to an even number: 480x832 becomes 368x640.
    """
    rows = int(WIDTH / (width / height))
    return round(rows / 2) * 2, WIDTH


def read_frames(path: str | os.PathLike, most: int | None = None) -> UInt8[np.ndarray, "F Y X 3"]:
    """All frames of a video, scaled in YUV 4:2:0 and converted with repeated chroma.

    Within a level (0.5 on average) of what the original's reader gives.

    Raises:
      BenchError: if the file cannot be read as a video.
    """
    return _stack(path, itertools.islice(_rgb_frames(path), most))


def read_frames_by_opencv(
    path: str | os.PathLike, most: int | None = None
) -> UInt8[np.ndarray, "F Y X 3"]:
    """All frames of a video, decoded and scaled by OpenCV.

    Raises:
      BenchError: if OpenCV is not installed, or reads no frame.
    """
    cv2 = require_opencv("reading videos for motion smoothness")
    capture = cv2.VideoCapture(str(path))

    def frames() -> Iterator[np.ndarray]:
        while True:
            there, frame = capture.read()
            if not there:
                return
            height, width = target_size(*frame.shape[:2])
            rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            if rgb.shape[:2] != (height, width):
                rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
            yield rgb

    try:
        return _stack(path, itertools.islice(frames(), most))
    finally:
        capture.release()


def read_single_frames(
    path: str | os.PathLike, indices: Sequence[int]
) -> list[UInt8[np.ndarray, "Y X 3"]]:
    """Frames found by seeking, in RGB, with a longer side of 512 pixels.

    Raises:
      BenchError: if OpenCV is not installed or reads none of them.
    """
    cv2 = require_opencv("reading frames for a judge")
    capture = cv2.VideoCapture(str(path))
    frames = []
    for index in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        there, frame = capture.read()
        if there:
            frames.append(scale_for_judge(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
    capture.release()
    if not frames:
        raise BenchError(f"{path}: OpenCV reads none of the frames {list(indices)}")
    return frames


def frame_rate(path: str | os.PathLike) -> float | None:
    """Frames per second on average, where the file tells them.

    Raises:
      BenchError: if the file cannot be read as a video.
    """
    rate = _contents(path).rate
    return float(rate) if rate else None


def _contents(path: str | os.PathLike) -> Contents:
    if os.path.isdir(path):
        raise BenchError(f"{path}: is a folder, and this metric reads video files: encode it first")
    if not os.path.isfile(path):
        raise BenchError(f"{path}: is not a file")
    try:
        return read_contents(path)
    except MediaError as error:
        raise BenchError(str(error)) from error


def _rgb_frames(path: str | os.PathLike) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    """The frames of a video one after another, upright and 640 columns wide."""
    contents = _contents(path)
    graph: Graph | None = None
    height, width, matrix = 0, 0, BT601
    try:
        for frame, _ in decode(path, contents):
            if graph is None:
                filters = upright(frame)
                turned = any(name == "transpose" for name, _ in filters)
                rows, columns = (frame.width, frame.height)[:: 1 if turned else -1]
                height, width = target_size(rows, columns)
                matrix = _matrix(frame, rows)
                scale = f"{width}:{height}:flags=fast_bilinear"
                filters += [("format", "yuv420p"), ("scale", scale)]
                graph = make_graph(frame, contents.unit, filters)
            frame.colorspace = UNSPECIFIED  # or FFmpeg would turn one matrix into another
            graph.vpush(frame)
            yield _to_rgb(graph.vpull().to_ndarray(), height, width, matrix)
    except MediaError as error:
        raise BenchError(str(error)) from error


def _matrix(frame: VideoFrame, rows: int) -> Matrix:
    """The matrix that the file names; where it names none, BT.709 from 720 rows on."""
    if frame.colorspace == UNSPECIFIED:
        return BT709 if rows >= 720 else BT601
    return BT709 if frame.colorspace == NAMED_BT709 else BT601


def _stack(
    path: str | os.PathLike, frames: Iterable[UInt8[np.ndarray, "Y X 3"]]
) -> UInt8[np.ndarray, "F Y X 3"]:
    """Frames as one array, which grows where it lies: a copy would double the memory."""
    stacked = np.empty((0,), np.uint8)
    count = 0
    for frame in frames:
        if count == len(stacked):
            stacked.resize((max(2 * count, 64), *frame.shape), refcheck=False)
        stacked[count] = frame
        count += 1
    if not count:
        raise BenchError(f"{path}: has no frame that can be decoded")
    stacked.resize((count, *stacked.shape[1:]), refcheck=False)
    return stacked


def _to_rgb(
    planes: UInt8[np.ndarray, "y x"],
    height: int,
    width: int,
    matrix: tuple[float, float, float, float],
) -> UInt8[np.ndarray, "Y X 3"]:
    """The planes Y, U and V of a frame, 4:2:0, in RGB; each sample of chroma serves four pixels."""
    area = height * width
    flat = planes.astype(np.float32).ravel()
    light = 1.164383 * (flat[:area].reshape(height, width) - 16)
    chroma = flat[area:].reshape(2, height // 2, width // 2) - 128
    u, v = chroma
    red, green_u, green_v, blue = matrix
    offsets = (red * v, -green_u * u - green_v * v, blue * u)
    frame = np.empty((height, width, 3), np.uint8)
    for channel, offset in enumerate(offsets):
        # blocks of 2 x 2 pixels, so that the offset is broadcast rather than repeated
        blocks = light.reshape(height // 2, 2, width // 2, 2) + offset[:, None, :, None]
        np.rint(blocks, out=blocks)
        frame[..., channel] = np.clip(blocks, 0, 255).reshape(height, width)
    return frame


def scale_for_judge(frame: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """A frame with a longer side of 512 pixels."""
    cv2 = require_opencv("scaling frames for a judge")
    height, width = frame.shape[:2]
    scale = JUDGED_SIDE / max(height, width)
    if scale == 1:
        return frame
    size = (int(width * scale), int(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
