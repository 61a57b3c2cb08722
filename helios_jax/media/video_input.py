"""Reading videos of any length: the beginning and the end of one that another goes on from, or all
of one that is learned from.
"""

import contextlib
import itertools
import logging
import math
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from helios_jax.media.animations import (
    Moment,
    describe_animation,
    is_animation,
    read_animation,
    resample,
)
from helios_jax.media.decoding import (
    ALPHA,
    TO_RGB,
    decode_frames,
    decode_once,
    find_stream,
    outside_error,
    read_header,
)
from helios_jax.media.ffmpeg import MediaError, frame_rate
from helios_jax.media.fit import check_fit, fit_image

# To the range of ordinary screens. White of graphics and faces is at 203 nits (ITU-R BT.2408): what
# is well below keeps its brightness, what is above is compressed.
TONE_MAP = (
    "zscale=pin=bt2020:min=bt2020nc:t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,"
    "tonemap=mobius:desat=0,zscale=t=bt709:m=bt709:r=limited,format=yuv444p,"
)
LAID = "what is transparent laid on white"

HIGH_RANGE = "smpte2084|arib-std-b67"
"""The transfer functions of high dynamic range, PQ and HLG."""


class TooShortError(MediaError):
    """A video with fewer frames than are needed."""


class Excerpt(NamedTuple):
    """A part of a video.

    Attributes:
      cut: its first frame and the one after its last, as the file counts them; None is all.
      crop: left, right, top and bottom pixel, of the upright picture; None is all.
    """

    cut: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None

    def describe(self) -> list[str]:
        """The part in words."""
        words = []
        if self.cut:
            words.append(f"frames {self.cut[0]} to {self.cut[1]}")
        if self.crop:
            left, right, top, bottom = self.crop
            words.append(f"cropped to x {left} to {right}, y {top} to {bottom}")
        return words

    def filters(self) -> str:
        """What ffmpeg does before it resamples."""
        found = ""
        if self.cut:
            first, end = self.cut
            found += f"trim=start_frame={first}:end_frame={end},setpts=PTS-STARTPTS,"
        if self.crop:
            left, right, top, bottom = self.crop
            found += f"crop={right - left}:{bottom - top}:{left}:{top}:exact=1,"
        return found

    def of(self, path: str | os.PathLike, frames: Iterable[Moment]) -> Iterator[Moment]:
        """The part of an animation."""
        first, end = self.cut or (0, None)
        for moment in itertools.islice(frames, first, end):
            if not self.crop:
                yield moment
                continue
            left, right, top, bottom = self.crop
            if right > moment.image.width or bottom > moment.image.height:
                raise outside_error(path)
            yield moment._replace(image=moment.image.crop((left, top, right, bottom)))


WHOLE = Excerpt()


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

    It is decoded twice: once to count its frames, which also shows whether it is whole, and once
    for the frames that are kept. So neither memory nor the time of resizing grows with its length.
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
        fitted = [fit_image(frame, height, width, fit) for frame in chosen]
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
    _check_file(path)
    if is_animation(path):
        for moment in itertools.islice(read_animation(path), most):
            yield np.asarray(moment.image)
        return
    stream = find_stream(read_header(path)) or ""
    limit = [] if most is None else ["-frames:v", str(most)]
    with contextlib.closing(decode_frames(path, stream, TO_RGB, limit)) as frames:
        for frame in frames:
            yield np.asarray(frame)


class _Source(NamedTuple):
    """A video that was decoded once.

    Attributes:
      num_frames: at the rate asked for.
      description: the codec, and what became of the frames.
      notes: what else is done to them.
      frames: frame 0 and those from a number on, one at a time and in their own size.
    """

    num_frames: int
    description: str
    notes: list[str]
    frames: Callable[[int], Generator[Image.Image]]


def _open(
    path: str | os.PathLike, fps: int | float | Fraction, least: int, excerpt: Excerpt = WHOLE
) -> _Source:
    """Decode a video once, and refuse one with fewer frames than ``least``."""
    _check_file(path)
    rate = frame_rate(fps)
    open_source = _open_animation if is_animation(path) else _open_video
    source = open_source(path, rate, excerpt)
    if source.num_frames < least:
        raise TooShortError(
            f"{path}: has {source.num_frames} frame(s) at {float(rate):.4g} fps; at least {least} "
            f"are needed, {float(least / rate):.3g} seconds"
        )
    return source


def _open_animation(path: str | os.PathLike, rate: Fraction, excerpt: Excerpt) -> _Source:
    found = describe_animation(path)
    seconds = found.seconds
    if excerpt.cut:
        seconds = sum((moment.seconds for moment in excerpt.of(path, read_animation(path))), 0)
    count = math.floor(seconds * rate + Fraction(1, 2))

    def frames(start: int) -> Generator[Image.Image]:
        moments = excerpt.of(path, read_animation(path))
        for number, image in enumerate(resample(moments, rate)):
            if number == 0 or number >= start:
                yield image

    length = f"{found.num_frames} frames in {float(found.seconds):.4g} s"
    description = f"{found.kind} animation, {length} resampled to {float(rate):.4g} fps: {count}"
    return _Source(count, description, [LAID] if found.transparent else [], frames)


def _open_video(path: str | os.PathLike, rate: Fraction, excerpt: Excerpt) -> _Source:
    log = decode_once(path, f"{excerpt.filters()}fps={rate}")
    source_frames = 0
    num_frames = 0
    for frames_in, frames_out in re.findall(r"(\d+) frames in, (\d+) frames out", log):
        source_frames += int(frames_in)
        num_frames += int(frames_out)
    stream = find_stream(log)
    if stream is None and num_frames:
        raise MediaError(f"{path}: has no video in it")
    stream = stream or ""
    high_range = re.search(HIGH_RANGE, stream)
    colors = f"{TONE_MAP if high_range else ''}{TO_RGB}"
    filters = f"{excerpt.filters()}fps={rate},{{}}{colors}"

    def frames(start: int) -> Generator[Image.Image]:
        return decode_frames(path, stream, filters.format(f"select='eq(n,0)+gte(n,{start})',"))

    notes = [f"high dynamic range ({high_range[0]}) tone-mapped"] if high_range else []
    notes += [LAID] if re.search(ALPHA, stream) else []
    return _Source(num_frames, _describe(stream, rate, source_frames, num_frames), notes, frames)


def _check_file(path: str | os.PathLike) -> None:
    if not os.path.isfile(path):
        raise MediaError(
            f"{path}: {'is not a file' if os.path.exists(path) else 'No such file or directory'}"
        )


def _check_count(path: str | os.PathLike, found: int, wanted: int) -> None:
    """Refuse a second reading that does not give what the first counted."""
    if found != wanted:
        raise MediaError(
            f"{path}: read again, {found} frames came instead of {wanted}; the file changes "
            "meanwhile, or its size does on the way: give a copy, made by ffmpeg -i FILE copy.mp4"
        )


def _describe(stream: str, rate: Fraction, source_frames: int, num_frames: int) -> str:
    """The codec, and what became of the frames."""
    source_rate = re.search(r"([\d.]+k?) fps", stream)
    there = source_rate[1] if source_rate else "an unknown number of"
    here = f"{float(rate):.4g}"
    if (there, source_frames) == (here, num_frames):
        frames = f"{num_frames} frames at {here} fps"
    else:
        frames = f"{there} fps resampled to {here}: {source_frames} frames -> {num_frames}"
    return f"{stream.split()[0].rstrip(',')} video, {frames}"
