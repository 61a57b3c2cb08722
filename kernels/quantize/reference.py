"""Rounding to eight bits in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from .types import FLOAT8, Quantized, UnscaledProduct, scaled


def quantize(x: Float[Array, "*tokens D"] | UnscaledProduct, *, gelu: bool = False) -> Quantized:
    """Tokens in float8; see :func:`.api.quantize`."""
    x = scaled(x)
    if gelu:
        x = jax.nn.gelu(x, approximate=True)
    return Quantized(*round_to_8_bits(x, (-1,), FLOAT8))


def round_to_8_bits(
    x: Float[Array, "..."], axes: tuple[int, ...], dtype: DTypeLike
) -> tuple[Array, Float[Array, "..."]]:
    """``x ≈ rounded · scale`` with one float32 scale for all numbers along ``axes``, which maps the
    largest of them to the largest number of the dtype.

    Returns:
      rounded, and scale without ``axes``.
    """
    is_float = jnp.issubdtype(dtype, jnp.floating)
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True).astype(jnp.float32)
    limit = float(jnp.finfo(dtype).max if is_float else jnp.iinfo(dtype).max)
    # A product: XLA makes one of a division by a constant, and the kernels give the same bits.
    scale = jnp.where(largest > 0, largest * (1 / limit), 1.0)
    rounded = x.astype(jnp.float32) / scale
    if not is_float:
        rounded = jnp.round(rounded)
    return jnp.clip(rounded, -limit, limit).astype(dtype), scale.squeeze(axes)
