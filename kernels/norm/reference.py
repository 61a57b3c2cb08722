"""Layer norm and RMS norm with an affine weight, in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "*axes D"],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "*axes D"]:
    """(x - mean) / √(variance + eps) · scale + bias over the last axis, in float32, returned in
    ``x``'s dtype.
    """
    y = _rows(x)
    y -= y.mean(-1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    if scale is not None:
        y *= scale.astype(jnp.float32)[None]
    if bias is not None:
        y += bias.astype(jnp.float32)[None]
    return y.reshape(x.shape).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*axes D"], scale: Float[Array, "D"], *, eps: float
) -> Float[Array, "*axes D"]:
    """x / √(mean(x²) + eps) · scale over the last axis, in float32, returned in ``x``'s dtype."""
    y = _rows(x)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * scale.astype(jnp.float32)[None]).reshape(x.shape).astype(x.dtype)


def _rows(x: Float[Array, "*axes D"]) -> Float[Array, "rows D"]:
    """All tokens in one axis, in float32. Next to a batch axis of size 1, a CPU sums the gradient's
    products far more slowly.
    """
    return x.astype(jnp.float32).reshape(-1, x.shape[-1])
