"""The shapes that Helios rotates: 33 frames of 384 x 640 at the three pyramid stages after 2400
history tokens, in 40 heads of 128 channels.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of one joint projection."""

    tokens: int
    history: int = 2400
    batch: int = 1
    heads: int = 40
    channels: int = 128

    @property
    def bytes_moved(self) -> int:
        """In bfloat16: the projection is read once and its three parts are written once. The tables
        are at most 3 % more.
        """
        return 2 * 2 * 3 * self.batch * self.tokens * self.heads * self.channels


SHAPES = {f"{tokens} tokens": Shape(tokens) for tokens in (2940, 4560, 11040)}
