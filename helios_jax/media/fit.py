"""Bringing an image, or a frame of a video, to the size that the model is asked for."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from helios_jax.media.ffmpeg import MediaError

FITS = {
    "crop": "fill the frame and cut off what sticks out, on both sides alike",
    "stretch": "change the proportions, as the PyTorch implementation does",
    "pad": "show all of it, between black bars",
}
"""What can be done with other proportions."""


def check_fit(fit: str) -> None:
    """Raise :class:`MediaError` unless ``fit`` is one of :data:`FITS`."""
    if fit not in FITS:
        known = ", ".join(f"{name} ({does})" for name, does in FITS.items())
        raise MediaError(f"fit={fit!r} must be one of {known}")


def fit_image(
    image: Image.Image, height: int, width: int, fit: str
) -> tuple[UInt8[np.ndarray, "Y X 3"], str]:
    """Resize with Lanczos.

    Args:
      image: of mode RGB.
      height, width: pixels of the result.
      fit: one of :data:`FITS`.

    Returns:
      The pixels, and what was done in words.
    """
    w, h = image.size
    wider = w * height > h * width
    kept: tuple[float, float] = (w, h)
    inner = (width, height)
    if fit == "crop":
        kept = (h * width / height, h) if wider else (w, w * height / width)
    elif fit == "pad" and wider:
        inner = (width, max(1, round(h * width / w)))
    elif fit == "pad":
        inner = (max(1, round(w * height / h)), height)
    left = (w - kept[0]) / 2
    top = (h - kept[1]) / 2
    picture = image.resize(
        inner, Image.Resampling.LANCZOS, (left, top, left + kept[0], top + kept[1])
    )
    done = [_pixels((w, h))]
    if kept != (w, h):
        done.append(f"cropped to {_pixels(kept)}")
    if kept != inner:
        done.append(f"resized to {_pixels(inner)} with Lanczos")
    if inner != (width, height):
        canvas = Image.new("RGB", (width, height))
        canvas.paste(picture, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        picture = canvas
        done.append(f"padded to {_pixels(picture.size)} with black")
    return np.array(picture), ", ".join(done)


def _pixels(size: tuple[int | float, int | float]) -> str:
    return f"{size[0]:.0f}x{size[1]:.0f}"
