"""The alphabet of array shapes used in every signature of the project.

Signatures name axes with these letters, in jaxtyping's notation; a letter means the same thing
everywhere.

======  =======================================================================
letter  axis
======  =======================================================================
``B``   batch
``F``   video frames (pixels)
``T``   latent frames
``H``   latent rows            (``Y`` rows of pixels or of an inner feature map)
``W``   latent columns         (``X`` columns of pixels or of an inner feature map)
``C``   channels
``N``   tokens of self-attention: ``h`` history tokens, then ``n`` noisy tokens
``S``   text tokens
``D``   model width
``K``   attention heads
``d``   channels of one head
``L``   layers
``M``   solver steps of one stage
======  =======================================================================

Video is channels-last everywhere inside the library: ``[B, F, Y, X, 3]`` pixels and ``[B, T, H, W,
C]`` latents.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

Params = Mapping[str, Any]
"""A tree of parameters: nested dictionaries with arrays as leaves."""


class FrameIndices(NamedTuple):
    """Positions in time of the noisy latent frames and of the three history segments; static."""

    noisy: tuple[int, ...]
    short: tuple[int, ...]
    mid: tuple[int, ...]
    long: tuple[int, ...]


class History(NamedTuple):
    """The latent frames before a chunk, at full resolution: anchor and newest frame, then two older
    ones, then the oldest sixteen.
    """

    short: Float[Array, "B T_short H W C"]
    mid: Float[Array, "B T_mid H W C"]
    long: Float[Array, "B T_long H W C"]


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, which may be abstract (``jax.ShapeDtypeStruct``)."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


__all__ = [
    "Array",
    "Bool",
    "DTypeLike",
    "Float",
    "FrameIndices",
    "History",
    "Int",
    "Key",
    "PRNGKeyArray",
    "Params",
    "tree_bytes",
]
