"""The three ways in which HeliosBench reads a file; they differ by a level or two.

All bring a video to 640 columns and keep its proportions, save the one for a judge. Its rate is not
looked at.
"""

import functools
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.opencv import require_opencv
from helios_jax.media.ffmpeg import READ_ONE_FILE, find_ffmpeg

WIDTH = 640
"""Columns to which videos are brought."""
TURNED = ", turned by a right angle"
"""Added to the description of a video that is shown turned, as telephones store it."""

JUDGED_SIDE = 512
"""Pixels of the longer side of a frame that a judge is shown."""

# Y'CbCr of limited range to R'G'B': R = y + a V, G = y - b U - c V, B = y + d U.
BT601 = (1.596027, 0.391762, 0.812968, 2.017232)
BT709 = (1.792741, 0.213249, 0.532909, 2.112402)


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
            frames.append(scale_for_judge(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
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
    source = [*READ_ONE_FILE, "-i", f"file:{os.path.abspath(path)}"]
    command = [find_ffmpeg(path), "-hide_banner", "-nostdin", *source]
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
    file = [*READ_ONE_FILE, "-i", f"file:{os.path.abspath(path)}"]
    source = [*file, "-map", "0:V:0", "-vf", scale]
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


def scale_for_judge(frame: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """A frame with a longer side of 512 pixels."""
    cv2 = require_opencv("scaling frames for a judge")
    height, width = frame.shape[:2]
    scale = JUDGED_SIDE / max(height, width)
    if scale == 1:
        return frame
    size = (int(width * scale), int(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
