"""Reading videos of any length: the beginning and the end of one that another goes on from, or all
of one that is learned from.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from helios_jax.media.animations import is_animation, read_animation
from helios_jax.media.colors import Converter
from helios_jax.media.decoding import decode, read_contents
from helios_jax.media.excerpts import WHOLE, Excerpt
from helios_jax.media.ffmpeg import MediaError, frame_rate
from helios_jax.media.fit import check_fit, fit_image
from helios_jax.media.video_source import VideoSource, check_exists, open_source


class TooShortError(MediaError):
    """A video with fewer frames than are needed."""


class VideoInput(NamedTuple):
    """What is kept of a video that was read.

    Attributes:
      first: its first frame.
      tail: its last frames, a whole number of pieces.
      num_frames: how many it has at the rate asked for.
      description: a line that says what was read and what was done to it.
    """

    first: UInt8[np.ndarray, "Y X 3"]
    tail: UInt8[np.ndarray, "F Y X 3"]
    num_frames: int
    description: str


def read_video(
    path: str | os.PathLike,
    height: int,
    width: int,
    fps: int | float | Fraction,
    fit: str = "crop",
    *,
    piece: int = 33,
    pieces: int = 3,
) -> VideoInput:
    """Read a video upright, as 8-bit RGB of the size and rate asked for.

    Its times are read first, which shows whether it is whole. Only its first frame and those from
    the keyframe before its last ones are decoded, where the file can be searched: neither memory
    nor time grow with its length.

    What may be in the file: :data:`~helios_jax.media.ffmpeg.DEMUXERS`,
    :data:`~helios_jax.media.ffmpeg.DECODERS`.

    Args:
      path: a file; sound is left alone.
      height, width: pixels of the result.
      fps: the model's frames per second. Any other rate is resampled by the frames' times: each
        instant shows the nearest frame.
      fit: what to do with other proportions, see :data:`~helios_jax.media.fit.FITS`.
      piece: frames of one chunk, which are encoded together.
      pieces: how many pieces to keep at most; a history of 19 latent frames holds no more than
        three.

    Raises:
      MediaError: if the file is missing, damaged, no video, or shorter than one piece.
    """
    check_fit(fit)
    source = _open(path, fps, piece)
    num_frames = source.num_frames
    kept = piece * min(num_frames // piece, pieces)
    with contextlib.closing(source.frames(num_frames - kept)) as chosen:
        fitted = [
            fit_image(frame, height, width, fit)
            for frame in itertools.islice(chosen, kept + (kept < num_frames))
        ]
    _check_count(path, len(fitted), kept + (kept < num_frames))
    frames = np.stack([pixels for pixels, _ in fitted])
    said = [
        source.description,
        *source.notes,
        f"the first and the last {kept} used",
        fitted[0][1],
    ]
    return VideoInput(frames[0], frames[-kept:], num_frames, f"{path}: {', '.join(said)}")


def read_pieces(
    path: str | os.PathLike,
    height: int,
    width: int,
    fps: int | float | Fraction,
    fit: str = "crop",
    *,
    piece: int = 33,
    least: int = 33,
    excerpt: Excerpt = WHOLE,
) -> tuple[int, Iterator[UInt8[np.ndarray, "F Y X 3"]]]:
    """Read a video from its beginning, one piece after another, with memory for one; see
    :func:`read_video`.

    Args:
      path, height, width, fps, fit: as there.
      piece: frames of a piece; what is left at the end is dropped.
      least: frames it must have.
      excerpt: the part that is read.

    Returns:
      How many frames it has at that rate, and its pieces, decoded as they are asked for, so that
      what is not asked for is not decoded.

    Raises:
      TooShortError: if it has fewer than ``least`` frames.
      MediaError: if the file is missing, damaged, or no video; at once, or while pieces are read.
    """
    check_fit(fit)
    source = _open(path, fps, max(least, piece), excerpt)
    if source.notes:
        logging.getLogger(__name__).warning("%s: %s", path, ", ".join(source.notes))
    num_frames = source.num_frames

    def pieces() -> Iterator[np.ndarray]:
        with contextlib.closing(source.frames(0)) as frames:
            for i in range(num_frames // piece):
                here = itertools.islice(frames, piece)
                fitted = [fit_image(frame, height, width, fit)[0] for frame in here]
                _check_count(path, i * piece + len(fitted), (i + 1) * piece)
                yield np.stack(fitted)

    return num_frames, pieces()


def native_frames(
    path: str | os.PathLike, most: int | None = None
) -> Generator[UInt8[np.ndarray, "Y X 3"]]:
    """The frames of a video as they are in the file, in its own size; what is transparent on white.

    Args:
      path: a video, or an animated image.
      most: frames to read at most.

    Raises:
      MediaError: if the file is missing, damaged or no video; while frames are read.
    """
    check_exists(path)
    if is_animation(path):
        for moment in itertools.islice(read_animation(path), most):
            yield np.asarray(moment.image)
        return
    contents = read_contents(path)._replace(high_range=None)  # not tone-mapped
    convert = Converter(path, contents)
    with contextlib.closing(decode(path, contents)) as frames:
        for shown in itertools.islice(frames, most):
            yield np.asarray(convert(shown.frame))


def _open(
    path: str | os.PathLike, fps: int | float | Fraction, least: int, excerpt: Excerpt = WHOLE
) -> VideoSource:
    """Look at a video, and refuse one with fewer frames than ``least``."""
    rate = frame_rate(fps)
    source = open_source(path, rate, excerpt)
    if source.num_frames < least:
        raise TooShortError(
            f"{path}: has {source.num_frames} frame(s) at {float(rate):.4g} fps; at least {least} "
            f"are needed, {float(least / rate):.3g} seconds"
        )
    return source


def _check_count(path: str | os.PathLike, found: int, wanted: int) -> None:
    """Refuse a video that gives other frames than it says it has."""
    if found != wanted:
        raise MediaError(
            f"{path}: damaged, cut short, or not a video: {found} frames came instead of {wanted}"
        )
