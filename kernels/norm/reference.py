"""Layer norm and RMS norm with an affine weight, in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "*axes D"], scale: Float[Array, "D"] | None = None, bias: Float[Array, "D"] | None = None, *, eps: float
) -> Float[Array, "*axes D"]:
    """(x - mean) / √(variance + eps) · scale + bias over the last axis, in float32, returned in ``x``'s dtype."""
    y = x.astype(jnp.float32)
    y -= y.mean(-1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    if scale is not None:
        y *= _row(scale, y)
    if bias is not None:
        y += _row(bias, y)
    return y.astype(x.dtype)


def rms_norm(x: Float[Array, "*axes D"], scale: Float[Array, "D"], *, eps: float) -> Float[Array, "*axes D"]:
    """x / √(mean(x²) + eps) · scale over the last axis, in float32, returned in ``x``'s dtype."""
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * _row(scale, y)).astype(x.dtype)


def _row(weight: Float[Array, "D"], like: Float[Array, "*axes D"]) -> Float[Array, "*ones D"]:
    """The weight in float32 with the rank of ``like``."""
    return weight.astype(jnp.float32).reshape((1,) * (like.ndim - 1) + weight.shape)
