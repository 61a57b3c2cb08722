"""The pixels of an image or a video that a request starts from, of whatever callers have: a file,
an image of Pillow's, or an array.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from helios_jax import media
from helios_jax.media.fit import fit_image
from helios_jax.sampling.request import Request

Pixels = np.ndarray | jax.Array
"""uint8 colours, the last axis."""

ImageSource = str | os.PathLike | Image.Image | Pixels
"""A file, an image, or an array [height, width, 3] or [B, height, width, 3]."""

ImageSources = ImageSource | Sequence[ImageSource]
"""One for all videos, or one for each."""

VideoSource = str | os.PathLike | Pixels
"""A file, or an array [F, height, width, 3] or [B, F, height, width, 3]."""


def image_pixels(image: Any, request: Request) -> Any:
    """The images as an array [B, height, width, 3] of the request's size; other sizes are cropped
    to its proportions and resized.

    Args:
      image: of :data:`ImageSources`; anything else is returned as it is.
      request: the video to be made.

    Raises:
      MediaError: if a file cannot be read.
    """
    if isinstance(image, list | tuple):
        found = [image_pixels(each, request) for each in image]
        usable = all(_is_pixels(each, 4) and len(each) == 1 for each in found)
        return np.concatenate(found) if found and usable else image
    if isinstance(image, str | os.PathLike):
        return media.read_image(image, request.height, request.width)[0][None]
    if isinstance(image, Image.Image):
        return _fit(np.asarray(image.convert("RGB")), request)[None]
    if _is_pixels(image, 3):
        return _fit(np.asarray(image), request)[None]
    if _is_pixels(image, 4):
        return np.stack([_fit(each, request) for each in np.asarray(image)])
    return image


def video_pixels(video: Any, request: Request) -> Any:
    """The video as an array [B, F, height, width, 3] of the request's size; of a file, its first
    frame and its last ones, at the model's frame rate.

    Args:
      video: of :data:`VideoSource`; anything else is returned as it is.
      request: the video to be made.

    Raises:
      MediaError: if a file cannot be read, or is too short.
    """
    if isinstance(video, str | os.PathLike):
        found = media.read_video(
            video,
            request.height,
            request.width,
            request.config.sample.fps,
            piece=request.frames_per_chunk,
        )
        return np.concatenate([found.first[None], found.tail])[None]
    if _is_pixels(video, 4):
        video = np.asarray(video)[None]
    if not _is_pixels(video, 5):
        return video
    if video.shape[2:4] == (request.height, request.width):
        return video
    clips = []
    for clip in np.asarray(video):
        clips.append(np.stack([_fit(frame, request) for frame in clip]))
    return np.stack(clips)


def _is_pixels(value: Any, axes: int) -> bool:
    """Whether a value is an array of colours with so many axes, none of them empty."""
    if not isinstance(value, np.ndarray | jax.Array) or value.ndim != axes:
        return False
    return value.dtype == np.uint8 and value.shape[-1] == 3 and value.size > 0


def _fit(pixels: np.ndarray, request: Request) -> np.ndarray:
    """One frame at the request's size."""
    size = (request.height, request.width)
    if pixels.shape[:2] == size:
        return pixels
    return fit_image(Image.fromarray(pixels), *size, "crop")[0]
