"""Softmax attention in plain JAX."""

import jax
from jaxtyping import Array, Float


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v, with logits and softmax in float32; ``bias`` is float32, one number a key."""
    if bias is not None:
        bias = bias[:, None, None, :].astype(query.dtype)
    return jax.nn.dot_product_attention(query, key, value, bias=bias, implementation="xla")
