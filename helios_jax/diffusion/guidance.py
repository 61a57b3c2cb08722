"""Classifier-free guidance."""

import jax.numpy as jnp

from helios_jax.types import Array, Float


def guide(
    positive: Float[Array, "B T H W C"],
    negative: Float[Array, "B T H W C"],
    scale: Float[Array, ""] | float,
) -> Float[Array, "B T H W C"]:
    """negative + scale (positive - negative) (Ho and Salimans 2022)."""
    return negative + scale * (positive - negative)


def guide_zero_star(
    positive: Float[Array, "B T H W C"],
    negative: Float[Array, "B T H W C"],
    scale: Float[Array, ""] | float,
) -> Float[Array, "B T H W C"]:
    """CFG-Zero* (Fan et al. 2025, eq. 7): guidance away from ``a negative``, with a = <positive,
    negative> / <negative, negative> of each sample, in float32.

    The sampler does the method's zero-init, a velocity of zero at the first steps.
    """
    axes = tuple(range(1, positive.ndim))
    products = positive.astype(jnp.float32) * negative.astype(jnp.float32)
    squares = jnp.square(negative.astype(jnp.float32))
    optimum = products.sum(axes, keepdims=True) / (squares.sum(axes, keepdims=True) + 1e-8)
    return guide(positive, optimum.astype(negative.dtype) * negative, scale)
