"""ffmpeg, which comes with imageio-ffmpeg: how it is found, and the options that every use of it
shares.
"""

import errno
import os
import signal
import sys
from fractions import Fraction

import imageio_ffmpeg
import numpy as np

from helios_jax.errors import HeliosError

# crf 18 is where H.264 is commonly taken to be free of visible loss (imageio's usual quality is crf
# 25, at less than half the bytes): what is looked at, or rated, should be the model. The matrix is
# the one ffmpeg converts RGB with; since it is stated, every player undoes the same one.
H264 = "-c:v libx264 -crf 18 -pix_fmt yuv420p -colorspace smpte170m"
"""Options of every mp4."""

DEMUXERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "nut", "ivf", "gif",
    "apng", "yuv4mpegpipe", "h264", "hevc", "obu", "m4v", "mpegvideo",
)  # fmt: skip
"""Containers that ffmpeg may open, by its names. None of them is a list of other files, a device or
an address.
"""

DECODERS = (
    "h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4",
    "mpeg1video", "mpeg2video", "msmpeg4v2", "msmpeg4v3", "h263", "flv", "wmv1", "wmv2", "wmv3",
    "vc1", "theora", "prores", "dnxhd", "mjpeg", "ffv1", "huffyuv", "ffvhuff", "utvideo",
    "rawvideo", "gif", "apng", "png", "qtrle", "cinepak", "dvvideo",
)  # fmt: skip
"""Codecs that ffmpeg may decode, by its names."""

MAX_PIXELS = 2**26
"""67 million pixels of a frame, a square of 8,192: 100 MB for each that the decoder keeps."""

READ_ONE_FILE = (
    "-protocol_whitelist", "file,pipe",
    "-format_whitelist", ",".join(DEMUXERS),
    "-codec_whitelist", ",".join(DECODERS),
    "-max_pixels", str(MAX_PIXELS),
)  # fmt: skip
"""Options before ``-i`` that keep ffmpeg to one file of a known kind, and to little memory."""


class MediaError(HeliosError, ValueError):
    """A file that cannot be read or written; the message names it and says what to do."""


def find_ffmpeg(path: str | os.PathLike) -> str:
    """The program.

    Raises:
      MediaError: naming ``path``, for which it is needed.
    """
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MediaError(f"{path} needs ffmpeg: {error}") from error


def exit_reason(status: int, log: str) -> str:
    """Why ffmpeg has stopped: what it said, or what its exit status means where it said nothing,
    as on a full disk.
    """
    if log.strip():
        return " ".join(log.split())
    if sys.platform != "win32" and status == -signal.SIGXFSZ:
        return os.strerror(errno.EFBIG)
    if 256 - status in errno.errorcode:
        return os.strerror(256 - status)
    return "it gave no reason"


def frame_rate(fps: int | float | Fraction) -> Fraction:
    """Frames per second as files count them: 29.97 is 30000/1001."""
    return Fraction(fps).limit_denominator(1001)


def raw_frames(size: tuple[int, int], rate: Fraction) -> list[str]:
    """Options with which ffmpeg reads RGB frames of ``size`` (width, height) from its standard
    input.
    """
    return f"-f rawvideo -pix_fmt rgb24 -s {size[0]}x{size[1]} -r {rate} -i -".split()


def check_frames(frames: np.ndarray, even: bool) -> None:
    """Refuse what is not ``[F, Y, X, 3]`` uint8.

    Args:
      frames: what was given.
      even: refuse odd sides, too, which H.264's halved chroma does not take.

    Raises:
      MediaError: saying which.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise MediaError(
            f"frames must be uint8 [F, Y, X, 3], not {frames.dtype} {list(frames.shape)}"
        )
    if even and len(frames) and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise MediaError(
            f"an mp4 needs even sides, not {frames.shape[2]}x{frames.shape[1]} pixels; write a "
            "folder of PNG images instead"
        )
