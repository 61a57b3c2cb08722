"""Animated images as video: GIF, APNG, WebP and AVIF, by Pillow, which composes their frames.

ffmpeg opens most of them, too, but takes an animated AVIF for its first picture and drops what is
transparent.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from helios_jax.media.ffmpeg import MAX_PIXELS, MediaError
from helios_jax.media.images import lay_on_white

FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Of Pillow, which may be animated."""
SHORTEST = Fraction(20, 1000)
"""Seconds: what claims to be shown for less is shown for a tenth, as browsers do."""


class Moment(NamedTuple):
    """A frame of an animation: its pixels, RGB, and the seconds that it is shown."""

    image: Image.Image
    seconds: Fraction


class Animation(NamedTuple):
    """What an animation is.

    Attributes:
      kind: its format, as Pillow names it.
      num_frames: pictures in it.
      seconds: that it takes.
      transparent: whether a part of a frame was laid on white.
    """

    kind: str
    num_frames: int
    seconds: Fraction
    transparent: bool


def is_animation(path: str | os.PathLike) -> bool:
    """Whether a file is an image of several frames, in a format that is read as video."""
    try:
        with _opened(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # decoders meet damage with whatever error it leads to
        return False


def describe_animation(path: str | os.PathLike) -> Animation:
    """Decode all of an animation once.

    Raises:
      MediaError: if it is damaged, or its frames are too large.
    """
    count = 0
    seconds = Fraction(0)
    transparent = False
    with _reading(path) as image:
        kind = image.format or "image"
        for frame in _frames(image):
            transparent = transparent or _shows_through(frame)
            count += 1
            seconds += _seconds(frame)
    return Animation(kind, count, seconds, transparent)


def read_animation(path: str | os.PathLike) -> Iterator[Moment]:
    """The frames of an animation, one after another; what is transparent becomes white.

    Raises:
      MediaError: as :func:`describe_animation`.
    """
    with _reading(path) as image:
        for frame in _frames(image):
            yield Moment(lay_on_white(frame).convert("RGB"), _seconds(frame))


@contextlib.contextmanager
def _reading(path: str | os.PathLike) -> Iterator[Image.Image]:
    """An opened animation, whose errors name it."""
    try:
        with _opened(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: frames of more than {MAX_PIXELS} pixels") from error
    except MediaError:
        raise
    except Exception as error:  # decoders meet damage with whatever error it leads to
        reason = str(error) or type(error).__name__
        raise MediaError(f"{path}: damaged animation: {reason}") from error


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image


def _frames(image: Image.Image) -> Iterator[Image.Image]:
    """Each frame decoded, in place."""
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        yield image


def _seconds(frame: Image.Image) -> Fraction:
    """How long a frame is shown; known when it is decoded."""
    seconds = Fraction(frame.info.get("duration") or 0).limit_denominator(1000) / 1000
    return seconds if seconds >= SHORTEST else Fraction(1, 10)


def _shows_through(frame: Image.Image) -> bool:
    if not frame.has_transparency_data:
        return False
    return bool((np.asarray(frame.convert("RGBA"))[..., 3] < 255).any())
