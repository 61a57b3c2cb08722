"""A video or an animated image as upright pictures at a constant rate, decoded as they are asked
for.
"""

import bisect
import contextlib
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeVar

from av.video.frame import VideoFrame
from PIL import Image

from helios_jax.media.animations import describe_animation, is_animation, read_animation
from helios_jax.media.colors import Converter
from helios_jax.media.decoding import Contents, decode, read_contents
from helios_jax.media.excerpts import Excerpt
from helios_jax.media.ffmpeg import MediaError

LAID = "what is transparent laid on white"

LONGEST = 24 * 3600
"""Seconds."""

Picture = TypeVar("Picture")


class VideoSource(NamedTuple):
    """A video that was looked at and is still to be decoded.

    Attributes:
      num_frames: at the rate asked for.
      description: the codec, and what becomes of the frames.
      notes: what else is done to them.
      frames: frame 0 and those from a number on, one at a time and in their own size.
    """

    num_frames: int
    description: str
    notes: list[str]
    frames: Callable[[int], Generator[Image.Image]]


def open_source(path: str | os.PathLike, rate: Fraction, excerpt: Excerpt) -> VideoSource:
    """Look at a video.

    Raises:
      MediaError: if the file is missing, cut short or no video.
    """
    check_exists(path)
    if is_animation(path):
        return _open_animation(path, rate, excerpt)
    return _open_video(path, rate, excerpt)


def check_exists(path: str | os.PathLike) -> None:
    """Raise :class:`MediaError` unless there is a file that may be read."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise MediaError(f"{path}: is not a file")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise MediaError(f"{path}: no file can have such a name") from error


def resample(
    frames: Iterable[tuple[Picture, Fraction]],
    rate: Fraction,
    start: int = 0,
    time: Fraction = Fraction(0),
) -> Iterator[Picture]:
    """Frames at a constant rate: each instant shows the nearest one.

    Args:
      frames: each with the seconds that it is shown.
      rate: frames per second of the result.
      start: leave out the frames of the result before this one.
      time: when the first of ``frames`` begins.
    """
    shown = max(start, _count(time, rate))
    for picture, seconds in frames:
        time += seconds
        until = _count(time, rate)
        for _ in range(until - shown):
            yield picture
        shown = max(shown, until)


def _count(seconds: Fraction, rate: Fraction) -> int:
    """Frames that are shown in a time."""
    return math.floor(seconds * rate + Fraction(1, 2))


def _ranges(start: int) -> list[tuple[int, int | None]]:
    """Where to begin, and how many frames to take (None: all), for frame 0 and those from ``start``
    on.
    """
    return [(0, 1), (start, None)] if start else [(0, None)]


def _open_video(path: str | os.PathLike, rate: Fraction, excerpt: Excerpt) -> VideoSource:
    contents = read_contents(path)
    if contents.seconds() > LONGEST:
        raise MediaError(
            f"{path}: its times span {float(contents.seconds() / 3600):.4g} hours, so they are "
            "damaged, or more than is read; give a copy of a part, by ffmpeg -i FILE -t 3600 "
            "copy.mp4"
        )
    num_frames = _count(contents.seconds(excerpt.cut), rate)
    first, end = excerpt.cut or (0, len(contents.times))
    begins = contents.times[first:end]

    def frame_of(time: int) -> int:
        return _count((time - begins[0]) * contents.unit, rate)

    def shown(start: int) -> Generator[VideoFrame]:
        skipped = bisect.bisect_right(begins, start, key=frame_of) - 1
        time = (begins[skipped] - begins[0]) * contents.unit
        with contextlib.closing(decode(path, contents, first + skipped)) as decoded:
            kept = itertools.islice(decoded, len(begins) - skipped)
            yield from resample(kept, rate, start, time)

    def frames(start: int) -> Generator[Image.Image]:
        convert = Converter(path, contents, excerpt.crop)
        for begin, count in _ranges(start):
            with contextlib.closing(shown(begin)) as chosen:
                for frame in itertools.islice(chosen, count):
                    yield convert(frame)

    notes = []
    if contents.high_range:
        notes.append(f"high dynamic range ({contents.high_range}) tone-mapped")
    if contents.transparent:
        notes.append(LAID)
    description = _describe(contents, rate, len(begins), num_frames)
    return VideoSource(num_frames, description, notes, frames)


def _open_animation(path: str | os.PathLike, rate: Fraction, excerpt: Excerpt) -> VideoSource:
    found = describe_animation(path)
    seconds = found.seconds
    if excerpt.cut:
        moments = excerpt.cut_frames(read_animation(path))
        seconds = sum((moment.seconds for moment in moments), Fraction(0))
    count = _count(seconds, rate)

    def frames(start: int) -> Generator[Image.Image]:
        for begin, count in _ranges(start):
            moments = excerpt.cut_frames(read_animation(path))
            for image in itertools.islice(resample(moments, rate, begin), count):
                yield excerpt.crop_picture(image, path)

    length = f"{found.num_frames} frames in {float(found.seconds):.4g} s"
    description = f"{found.kind} animation, {length} resampled to {float(rate):.4g} fps: {count}"
    return VideoSource(count, description, [LAID] if found.transparent else [], frames)


def _describe(contents: Contents, rate: Fraction, source_frames: int, num_frames: int) -> str:
    """The codec, and what becomes of the frames."""
    there = f"{float(contents.rate):.4g}" if contents.rate else "an unknown number of"
    here = f"{float(rate):.4g}"
    if (there, source_frames) == (here, num_frames):
        frames = f"{num_frames} frames at {here} fps"
    else:
        frames = f"{there} fps resampled to {here}: {source_frames} frames -> {num_frames}"
    return f"{contents.codec} video, {frames}"
