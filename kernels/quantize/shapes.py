"""The tokens that Helios rounds on their way into a product: what attention returns, and the inner
channels of the feed-forward, at 33 frames of 384 x 640.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of one array of tokens."""

    tokens: int
    channels: int

    @property
    def bytes_moved(self) -> int:
        """Of bfloat16 read and float8 written, once each."""
        return 3 * self.tokens * self.channels


SHAPES = {
    "attended, 11040 tokens": Shape(11040, 5120),
    "feed-forward, 11040 tokens": Shape(11040, 13824),
    "feed-forward, 2944 tokens": Shape(2944, 13824),
}
