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
    return attend(query, key, value, bias)[0]


def attend(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
) -> tuple[Float[Array, "B N K d"], Float[Array, "B K N"]]:
    """:func:`attention`, and the logarithm of each query's softmax sum."""
    # Heads before tokens: with heads between tokens and channels, as jax.nn.dot_product_attention
    # has them, XLA's CPU products take twice as long.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    found = logits(query, key, bias)
    largest = jax.lax.stop_gradient(found.max(-1, keepdims=True))
    weights = jnp.exp(found - largest)
    attended = jnp.einsum(
        "bkns,bksd->bknd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    total = weights.sum(-1, keepdims=True)
    log_total = (largest + jnp.log(total))[..., 0]
    return (attended / total).astype(value.dtype).swapaxes(1, 2), log_total


def logits(
    query: Float[Array, "B K N d"], key: Float[Array, "B K S d"], bias: Float[Array, "B S"] | None
) -> Float[Array, "B K N S"]:
    """q kᵀ / √d + bias in float32."""
    found = jnp.einsum("bknd,bksd->bkns", query, key, preferred_element_type=jnp.float32)
    found *= query.shape[-1] ** -0.5
    return found if bias is None else found + bias[:, None, None, :]
