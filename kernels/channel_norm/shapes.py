"""The clips that the VAE's decoder norms: three latent frames at a time of 384 x 640 pixels, at
each of its widths.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of one clip."""

    frames: int
    rows: int
    columns: int
    channels: int
    batch: int = 1


SHAPES = {
    "48 x 80, 384 channels": Shape(3, 48, 80, 384),
    "96 x 160, 384 channels": Shape(6, 96, 160, 384),
    "192 x 320, 192 channels": Shape(12, 192, 320, 192),
    "384 x 640, 96 channels": Shape(12, 384, 640, 96),
}
