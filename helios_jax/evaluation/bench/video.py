"""Videos as HeliosBench reads them: each metric gets its frames the way the original gets them.

The original has three readers, and they differ by a level or two (:class:`Video`). All bring
a video to 640 columns and keep its proportions; its rate and its orientation are not looked at.
"""

import functools
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.opencv import require_opencv
from helios_jax.media.ffmpeg import find_ffmpeg

Figures = dict[str, float | str | list[float]]
"""What a metric measures in a video, by name: numbers, a judge's answer, a curve over chunks."""

WIDTH = 640
"""Columns to which videos are brought."""
TURNED = ", turned by a right angle"
"""Added to the description of a video that is shown turned, as telephones store it."""

JUDGED_SIDE = 512
"""Pixels of the longer side of a frame that a judge is shown."""

# Y'CbCr of limited range to R'G'B': R = y + a V, G = y - b U - c V, B = y + d U.
BT601 = (1.596027, 0.391762, 0.812968, 2.017232)
BT709 = (1.792741, 0.213249, 0.532909, 2.112402)


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
        rate = re.search(r"([\d./]+) fps", describe(self.path))
        return float(Fraction(rate[1])) if rate else None

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
        return [_for_judge(self.frames[index]) for index in indices if index < len(self.frames)]


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
    stream = describe(path)
    size = re.search(r", (\d+)x(\d+)", stream)
    if size is None:
        raise BenchError(f"{path}: ffmpeg does not tell the size of its pictures")
    source = (int(size[1]), int(size[2])) if TURNED in stream else (int(size[2]), int(size[1]))
    height, width = target_size(*source)
    named_709 = "bt709" in stream
    unnamed = not re.search(r"smpte170m|bt470|bt601|fcc|bt2020", stream)
    matrix = BT709 if named_709 or (unnamed and source[0] >= 720) else BT601
    planes = _yuv_frames(path, height, width, most)
    return _stack(path, (_to_rgb(each, height, width, matrix) for each in planes))


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
            frames.append(_for_judge(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
    capture.release()
    if not frames:
        raise BenchError(f"{path}: OpenCV reads none of the frames {list(indices)}")
    return frames


@functools.lru_cache(maxsize=64)
def describe(path: str | os.PathLike) -> str:
    """The line in which ffmpeg describes the first video stream of a file.

    Raises:
      BenchError: if the file cannot be read as a video.
    """
    if os.path.isdir(path):
        raise BenchError(f"{path}: is a folder, and this metric reads video files: encode it first")
    if not os.path.isfile(path):
        raise BenchError(f"{path}: is not a file")
    command = [find_ffmpeg(path), "-hide_banner", "-nostdin", "-i", f"file:{os.path.abspath(path)}"]
    log = subprocess.run(command, capture_output=True).stderr.decode(errors="replace")
    stream = re.search(r"Stream #0.* Video: (?!.*attached pic)(.*)", log)
    if stream is None:
        raise BenchError(f"{path}: damaged or not a video: {log.strip().splitlines()[-1]}")
    turned = re.search(r"rotation of -?(90|270)\.", log)
    return stream[1] + (TURNED if turned else "")


def _yuv_frames(
    path: str | os.PathLike, height: int, width: int, most: int | None
) -> Iterator[bytes]:
    """The planes Y, U and V of each frame, 4:2:0, as bytes."""
    scale = f"format=yuv420p,scale={width}:{height}:flags=fast_bilinear"
    source = ["-i", f"file:{os.path.abspath(path)}", "-map", "0:V:0", "-vf", scale]
    limit = [] if most is None else ["-frames:v", str(most)]
    output = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
    command = [find_ffmpeg(path), "-v", "error", "-nostdin", *source, *limit, *output]
    size = height * width * 3 // 2
    with tempfile.TemporaryFile() as log:  # a file: a pipe that nobody reads could fill up
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            assert process.stdout is not None
            while len(planes := process.stdout.read(size)) == size:
                yield planes
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise BenchError(f"{path}: damaged or cut short: {said[0] if said else 'no reason given'}")


def _stack(
    path: str | os.PathLike, frames: Iterable[UInt8[np.ndarray, "Y X 3"]]
) -> UInt8[np.ndarray, "F Y X 3"]:
    """Frames as one array, which grows where it lies: a copy would double the memory."""
    stacked, count = np.empty((0,), np.uint8), 0
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
    planes: bytes, height: int, width: int, matrix: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "Y X 3"]:
    """A frame in RGB; each sample of chroma serves four pixels."""
    area = height * width
    flat = np.frombuffer(planes, np.uint8).astype(np.float32)
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


def _for_judge(frame: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """A frame with a longer side of 512 pixels."""
    cv2 = require_opencv("scaling frames for a judge")
    height, width = frame.shape[:2]
    scale = JUDGED_SIDE / max(height, width)
    if scale == 1:
        return frame
    size = (int(width * scale), int(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
