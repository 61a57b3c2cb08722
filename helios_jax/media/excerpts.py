"""The part of a video that is read."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from PIL import Image

from helios_jax.media.ffmpeg import MediaError

Frame = TypeVar("Frame")


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

    def cut_frames(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Those of the frames that are in the part."""
        return itertools.islice(frames, *(self.cut or (0, None)))

    def crop_picture(self, picture: Image.Image, path: str | os.PathLike) -> Image.Image:
        """What of a picture is in the part.

        Raises:
          MediaError: if the part lies outside, naming ``path``.
        """
        if self.crop is None:
            return picture
        left, right, top, bottom = self.crop
        if right > picture.width or bottom > picture.height:
            raise outside_error(path)
        return picture.crop((left, top, right, bottom))


WHOLE = Excerpt()


def outside_error(path: str | os.PathLike) -> MediaError:
    return MediaError(f"{path}: the crop lies outside of its frames")
