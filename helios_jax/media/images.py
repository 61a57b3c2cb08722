"""Reading the image that a video begins with."""

import os
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from helios_jax.media.ffmpeg import MediaError
from helios_jax.media.fit import check_fit, fit_image

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
"""What Pillow may open. It knows some forty formats more, one of which starts Ghostscript."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""


def read_image(
    path: str | os.PathLike, height: int, width: int, fit: str = "crop"
) -> tuple[UInt8[np.ndarray, "Y X 3"], str]:
    """Read a PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF image, upright, as 8-bit RGB of the size asked
    for; of an animation the first frame.

    What is transparent becomes white: most images that have transparent parts are made for white
    pages. Colour profiles are not applied, nor are they by Diffusers.

    Args:
      path: the file.
      height, width: pixels of the result.
      fit: what to do with other proportions, see :data:`~helios_jax.media.fit.FITS`.

    Returns:
      The pixels, and a line that says what was read and what was done to it.

    Raises:
      MediaError: if the file is missing, damaged, not an image, or too large to be one in earnest.
    """
    check_fit(fit)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise MediaError(f"{path}: is a pipe or a device, not a file")  # which may never end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, and sizes that are large but still read
            with Image.open(path, formats=FORMATS) as file:
                upright = ImageOps.exif_transpose(file)
                image, notes = _to_rgb(upright)
                if (count := getattr(file, "n_frames", 1)) > 1:
                    notes = [f"the first of {count} frames", *notes]
                if file.getexif().get(ORIENTATION, 1) != 1:
                    notes = ["turned upright", *notes]
                kind = file.format
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{path}: not an image, or in a format that is not read; save it as PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns of half as many
        raise MediaError(f"{path}: more than {most} pixels; make it smaller") from error
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror or f'damaged image: {error}'}") from error
    except Exception as error:  # decoders meet damage with whatever error it leads to
        raise MediaError(f"{path}: cannot be read as an image: {error}") from error
    pixels, done = fit_image(image, height, width, fit)
    return pixels, f"{path}: {', '.join([f'{kind} image', *notes, done])}"


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """8-bit RGB of any mode, and what there is to say about it."""
    notes = []
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(
                "its integers have more than 16 bits, or a sign; save it with 8 or 16 bits"
            )
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
        notes.append("16 bits reduced to 8")
    elif image.mode == "F":
        raise ValueError(
            "its floating-point numbers do not say what is white; save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = lay_on_white(image)
        notes.append("laid on white")
    return image.convert("RGB"), notes


def lay_on_white(image: Image.Image) -> Image.Image:
    """The image on white where it is transparent, as videos are laid, too."""
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
