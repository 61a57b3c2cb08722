"""The shapes that Helios attends with: 33 frames of 384 x 640 at the three pyramid stages, in 40
heads of 128 channels.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of one attention; ``bias`` where keys have a logit bias."""

    queries: int
    keys: int
    bias: bool = False
    batch: int = 1
    heads: int = 40
    channels: int = 128


HISTORY = 2400
NOISY = (540, 2160, 8640)
TEXT = 512
SELF = {f"self {HISTORY + noisy}": Shape(HISTORY + noisy, HISTORY + noisy) for noisy in NOISY}
# In the last block only noisy tokens have queries.
LAST = {f"last block {noisy}": Shape(noisy, HISTORY + noisy) for noisy in NOISY}
CROSS = {
    f"text {noisy} x {rows}": Shape(noisy, rows, bias=rows < TEXT)
    for noisy in NOISY
    for rows in (128, 256, TEXT)
}
SHAPES = SELF | LAST | CROSS
