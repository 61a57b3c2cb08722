"""Reading all frames of a video in its own size, with memory for one piece of them."""

import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.media.animations import describe_animation, is_animation
from helios_jax.media.decoding import read_contents
from helios_jax.media.ffmpeg import MediaError
from helios_jax.media.images import FORMATS
from helios_jax.media.video_input import native_frames

PIECE = 33
FOLDER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Images that a folder of frames may hold."""


def read_pieces(
    path: str | os.PathLike, piece: int = PIECE, most: int | None = None
) -> Iterator[UInt8[np.ndarray, "F Y X 3"]]:
    """The frames of a video file, or of a folder of images in the order of their names.

    Args:
      path: a video of any kind that is read; neither rate nor size is changed.
      piece: frames of a piece; the last one has what is left.
      most: frames to read at most.

    Raises:
      BenchError: if the file is missing, damaged or no video; while pieces are read.
    """
    source = _folder_frames(Path(path)) if os.path.isdir(path) else _video_frames(path, most)
    count = 0
    with contextlib.closing(source):
        frames = itertools.islice(source, most)
        while batch := list(itertools.islice(frames, piece)):
            if any(frame.shape != batch[0].shape for frame in batch):
                raise BenchError(f"{path}: its frames have more than one size")
            yield np.stack(batch)
            count += len(batch)
    if not count:
        raise BenchError(f"{path}: has no frame that can be read")


def count_frames(path: str | os.PathLike) -> int:
    """Frames of a video, without turning them into pictures.

    Raises:
      BenchError: as :func:`read_pieces`.
    """
    if os.path.isdir(path):
        return sum(p.suffix.lower() in FOLDER_SUFFIXES for p in Path(path).iterdir())
    if not os.path.isfile(path):
        raise BenchError(f"{path}: is not a file; name a video or a folder of images")
    if is_animation(path):
        return describe_animation(path).num_frames
    try:
        return len(read_contents(path).times)
    except MediaError as error:
        raise BenchError(f"{path}: damaged or not a video") from error


Frames = Generator[UInt8[np.ndarray, "Y X 3"], None, None]


def _folder_frames(folder: Path) -> Frames:
    names = sorted(p for p in folder.iterdir() if p.suffix.lower() in FOLDER_SUFFIXES)
    for name in names:
        try:
            with Image.open(name, formats=FORMATS) as image:
                yield np.asarray(image.convert("RGB"))
        except OSError as error:
            raise BenchError(f"{name}: damaged or not an image") from error


def _video_frames(path: str | os.PathLike, most: int | None) -> Frames:
    if not os.path.isfile(path):
        raise BenchError(f"{path}: is not a file; name a video or a folder of images")
    try:
        yield from native_frames(path, most)
    except MediaError as error:
        raise BenchError(str(error)) from error
