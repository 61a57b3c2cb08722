"""The sequences that Helios norms and adds to: 33 frames of 384 x 640 at the three pyramid stages,
5120 channels a token.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of one operation; the first ``history`` tokens are history."""

    tokens: int
    history: int
    channels: int = 5120
    batch: int = 1


HISTORY = 2400
NOISY = (540, 2160, 8640)
WHOLE = {f"{HISTORY + noisy} tokens": Shape(HISTORY + noisy, HISTORY) for noisy in NOISY}
# Of cross-attention and of the last block.
NOISY_ONLY = {f"{noisy} noisy tokens": Shape(noisy, 0) for noisy in NOISY}
SHAPES = WHOLE | NOISY_ONLY
