"""Logit biases with which a few padding keys stand for many identical ones."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PADDING_KEYS = 4
"""Padding keys that share the weight of all."""

MASK_VALUE = -1e30
"""Logit bias of a key that is not attended to."""


def padding_bias(lengths: Int[Array, "B"], rows: int, total: int) -> Float[Array, "B rows"]:
    """Logit biases that give the padding among ``rows`` keys the weight of the padding among
    ``total`` keys.

    A key counted m times has the bias ln m, which bfloat16 would round by several per cent of m. So
    up to four padding keys share the count: all but the last take the multiple of 1/32 below the
    logarithm of what is left, exact in bfloat16 and float16, and the last takes the rest. The
    exponentials sum to m to rounding in float32, and to 2^-20 of m when the biases are rounded to
    bfloat16.

    Args:
      lengths: real keys of each sample. The padding keys after them are equal to one another; there
        must be at least one among ``rows``, and four for the sum to survive rounding to bfloat16.
      rows: keys that are kept: those of the longest sample, and padding.
      total: keys of the full sequence.
    """
    sharing = jnp.minimum(rows - lengths, PADDING_KEYS)
    left = (total - lengths).astype(jnp.float32)
    biases = []
    for copy in range(PADDING_KEYS):
        rest = jnp.log(left)
        bias = jnp.where(copy + 1 < sharing, jnp.floor(rest * 32) / 32, rest)
        biases.append(jnp.where(copy < sharing, jnp.maximum(bias, MASK_VALUE), MASK_VALUE))
        left = jnp.maximum(left - jnp.exp(bias), 0)
    biases = jnp.stack([jnp.zeros_like(left), *biases, jnp.full_like(left, MASK_VALUE)], axis=1)
    copy = jnp.arange(rows)[None] - lengths[:, None]
    return jnp.take_along_axis(biases, jnp.clip(copy, -1, PADDING_KEYS) + 1, axis=1)
