"""Eight-bit numbers on their way between kernels, with the scales that belong to them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOAT8 = jnp.float8_e4m3fn


class Quantized(NamedTuple):
    """Tokens ``x ≈ values · scale``.

    Attributes:
      values: float8, ``[*tokens, D]``.
      scale: float32, one for each token.
    """

    values: Float[Array, "*tokens D"]
    scale: Float[Array, "*tokens"]


class UnscaledProduct(NamedTuple):
    """A product of eight-bit operands before its scales and its bias, which the kernel that reads
    it applies:

        y = sums · token_scale · channel_scale + bias

    in float32, rounded to the bias's dtype before the bias is added, and after.

    Attributes:
      sums: ``[*tokens, *features]``, in the bias's dtype or float32.
      token_scale: float32, ``[*tokens]``.
      channel_scale: float32, ``[*features]``.
      bias: ``[*features]``; its dtype is the result's.
    """

    sums: Float[Array, "..."]
    token_scale: Float[Array, "*tokens"]
    channel_scale: Float[Array, "*features"]
    bias: Float[Array, "*features"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return self.sums.shape

    @property
    def dtype(self) -> jnp.dtype:
        """Of the result."""
        return self.bias.dtype

    def flat(self) -> "UnscaledProduct":
        """With all features in one axis."""
        tokens = self.token_scale.shape
        return UnscaledProduct(
            self.sums.reshape(*tokens, -1),
            self.token_scale,
            self.channel_scale.reshape(-1),
            self.bias.reshape(-1),
        )


def scaled(y: jax.Array | UnscaledProduct) -> jax.Array:
    """A product with its scales and its bias; another array as it is."""
    if not isinstance(y, UnscaledProduct):
        return y
    tokens = y.token_scale.shape
    features = y.bias.shape
    ones = (1,) * len(tokens)
    result = y.sums.astype(jnp.float32) * y.token_scale.reshape(*tokens, *(1,) * len(features))
    result = (result * y.channel_scale.reshape(*ones, *features)).astype(y.dtype)
    return result + y.bias.reshape(*ones, *features)
