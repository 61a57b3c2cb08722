"""Decoding one video file with ffmpeg: what it says of the file, and frames as 8-bit RGB."""

import os
import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from typing import IO

from PIL import Image

from helios_jax.media.ffmpeg import MAX_PIXELS, READ_ONE_FILE, MediaError, find_ffmpeg

# By the matrix and range that the file names (BT.601 where it names none, as ffmpeg takes it), with
# the flags for exactness. Pixels that are not square are made so first: a fit is chosen by what is
# seen.
TO_RGB = "scale=iw*sar:ih:flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp,format=rgb24"

ALPHA = r"\b(yuva|rgba|bgra|argb|abgr|gbrap|ya8|ya16|pal8)"
"""Pixel formats that can be transparent."""
# As an image is laid: on white. The overlay's picture is its input, its background that in white.
ON_WHITE = (
    "scale=flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp,format=rgba,split[top][copy];"
    "[copy]lutrgb=r=255:g=255:b=255:a=255[white];[white][top]overlay=format=rgb,"
)
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Those of ffmpeg's own decoders that leave transparency out, and what does not."""

DAMAGE = "File ended prematurely"
"""What ffmpeg says of a Matroska or WebM file that is cut short, although it counts it as a
success.
"""


def find_stream(log: str) -> str | None:
    """What ffmpeg says of the video, and that it is transparent where only its container says."""
    stream = re.search(r"Stream #0.* Video: (?!.*attached pic)(.*)", log)
    if stream is None:
        return None
    hidden = re.search(r"alpha_mode *: *1", log)
    return f"{stream[1]}, yuva" if hidden and stream[1][:3] in ALPHA_DECODERS else stream[1]


def decode_once(path: str | os.PathLike, filters: str) -> str:
    """What ffmpeg tells of a video and of decoding all of it through ``filters``."""
    done = subprocess.run(_command(path, filters, "-f null -"), capture_output=True)
    log = done.stderr.decode(errors="replace")
    _check(path, done.returncode, log)
    return log


def read_header(path: str | os.PathLike) -> str:
    """What ffmpeg tells of a file without decoding it."""
    command = _command(path, "null", "-frames:v 0 -f null -")
    return subprocess.run(command, capture_output=True).stderr.decode(errors="replace")


def decode_frames(
    path: str | os.PathLike, stream: str, filters: str, limit: Sequence[str] = ()
) -> Generator[Image.Image]:
    """The frames that filters leave, one at a time, on white where they are transparent.

    Args:
      path: the file.
      stream: what ffmpeg says of it.
      filters: that end in RGB.
      limit: options that end it early.
    """
    decoder: list[str] = []
    if re.search(ALPHA, stream):
        filters = filters.replace(TO_RGB, ON_WHITE + TO_RGB)
        if name := ALPHA_DECODERS.get(stream[:3]):
            decoder = ["-c:v", name]
    output = "-fps_mode passthrough -c:v ppm -f image2pipe -"
    command = _command(path, filters, output, decoder, limit)
    with tempfile.TemporaryFile() as log:  # a file: a pipe that nobody reads could fill up
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            assert process.stdout is not None
            while size := _ppm_size(process.stdout):
                width, height = size
                pixels = process.stdout.read(3 * width * height)
                if len(pixels) == 3 * width * height:
                    yield Image.frombytes("RGB", (width, height), pixels)
        log.seek(0)
        _check(path, process.returncode, log.read().decode(errors="replace"))


def _ppm_size(stream: IO[bytes]) -> tuple[int, int] | None:
    """Width and height in the header of a PPM image; None at the end of the stream."""
    lines = [stream.readline() for _ in range(3)]
    header = re.fullmatch(rb"P6\n(\d+) (\d+)\n255\n", b"".join(lines))
    return (int(header[1]), int(header[2])) if header else None


def _command(
    path: str | os.PathLike,
    filters: str,
    output: str,
    decoder: Sequence[str] = (),
    limit: Sequence[str] = (),
) -> list[str]:
    """Decode the first video that is not a cover, and stop at damage.

    ``file:`` keeps a name from being taken for an option or an address; the lists keep ffmpeg from
    opening anything but one file of a known kind.
    """
    options = ["-hide_banner", "-nostdin", "-nostats", "-v", "level+verbose", "-xerror"]
    return [
        find_ffmpeg(path),
        *options,
        *READ_ONE_FILE,
        *decoder,
        "-i",
        f"file:{os.path.abspath(path)}",
        "-map",
        "0:V:0",
        "-vf",
        filters,
        *limit,
        *output.split(),
    ]


def _check(path: str | os.PathLike, status: int, log: str) -> None:
    """Raise what ffmpeg says is wrong with a file."""
    if "matches no streams" in log:
        raise MediaError(f"{path}: has no video in it")
    if status and "Invalid too big or non positive size" in log:
        raise outside_error(path)
    if status and "not on whitelist" in log:
        raise MediaError(
            f"{path}: not a video, or in a format that is not read; save it as mp4, by ffmpeg -i "
            "FILE copy.mp4"
        )
    if status and "exceeds specified max pixel count" in log:
        raise MediaError(f"{path}: frames of more than {MAX_PIXELS} pixels; make them smaller")
    if status or DAMAGE in log:
        errors = [
            line.split("] ")[-1].strip()
            for line in log.splitlines()
            if "[error]" in line or "[fatal]" in line
        ]
        reason = errors[0] if errors else f"ffmpeg gave status {status}"
        raise MediaError(f"{path}: damaged, cut short, or not a video: {reason}")


def outside_error(path: str | os.PathLike) -> MediaError:
    return MediaError(f"{path}: the crop lies outside of its frames")
