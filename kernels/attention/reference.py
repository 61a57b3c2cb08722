"""Softmax attention in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v, with logits and softmax in float32; ``bias`` is float32, one
    number a key.
    """
    # Heads before tokens: with heads between tokens and channels, as jax.nn.dot_product_attention
    # has them, XLA's CPU products take twice as long.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = jnp.einsum("bknd,bksd->bkns", query, key, preferred_element_type=jnp.float32)
    logits *= query.shape[-1] ** -0.5
    if bias is not None:
        logits += bias[:, None, None, :]
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    attended = jnp.einsum(
        "bkns,bksd->bknd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    return (attended / weights.sum(-1, keepdims=True)).astype(value.dtype).swapaxes(1, 2)
