"""Many identical keys, of which a few with logit offsets stand for all."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

COPIES = 4
HIDDEN = -1e30
"""Logit offset of a key that stands for nothing."""


def padding_bias(lengths: Int[Array, "B"], rows: int, total: int) -> Float[Array, "B rows"]:
    """Logit offsets with which the padding among ``rows`` keys weighs as the padding among
    ``total`` keys does.

    One key counted m times has the offset ln m, which bfloat16 would round by several per cent of
    m. So up to four of the padding keys share the count: all but the last take the multiple of 1/32
    below the logarithm of what is left, exact in bfloat16 and float16, and the last takes the rest.
    The exponentials sum to m to rounding in float32, and to 2^-20 of m when the offsets are rounded
    to bfloat16.

    Args:
      lengths: keys of each sample that stand for themselves. Those behind are equal to one another,
        and there is at least one among ``rows``; the sum survives rounding to bfloat16 where there
        are four.
      rows: keys that are kept, longest sample and padding.
      total: keys that they stand for.
    """
    sharing = jnp.minimum(rows - lengths, COPIES)
    left = (total - lengths).astype(jnp.float32)
    offsets = []
    for copy in range(COPIES):
        rest = jnp.log(left)
        offset = jnp.where(copy + 1 < sharing, jnp.floor(rest * 32) / 32, rest)
        offsets.append(jnp.where(copy < sharing, jnp.maximum(offset, HIDDEN), HIDDEN))
        left = jnp.maximum(left - jnp.exp(offset), 0)
    offsets = jnp.stack([jnp.zeros_like(left), *offsets, jnp.full_like(left, HIDDEN)], axis=1)
    copy = jnp.arange(rows)[None] - lengths[:, None]
    return jnp.take_along_axis(offsets, jnp.clip(copy, -1, COPIES) + 1, axis=1)
