"""Softmax attention in plain JAX, with a gradient that keeps what the forward pass found.

Where a ``jax.checkpoint`` policy keeps the attended values and the softmax sums, the backward pass
computes the weights again and multiplies no values by them. Autodiff of the plain version would
attend again, or hold the weights of all heads.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from . import reference


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    name: str = "",
) -> Float[Array, "B N K d"]:
    """As the plain version; the attended values and the logarithms of the softmax sums have the
    ``name``.
    """
    return _attention(name, query, key, value, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    name: str,
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None,
) -> Float[Array, "B N K d"]:
    return reference.attention(query, key, value, bias)


def _forward(name, query, key, value, bias):
    attended, log_total = reference.attend(query, key, value, bias)
    attended = checkpoint_name(attended, name)
    log_total = checkpoint_name(log_total, name)
    return attended, (query, key, value, bias, log_total)


def _backward(name, residuals, cotangent):
    query, key, value, bias, log_total = residuals
    arrays = (query, key, value, cotangent)
    q, k, v, g = (x.swapaxes(1, 2).astype(jnp.float32) for x in arrays)
    weights = jnp.exp(reference.logits(q, k, bias) - log_total[..., None])
    weights /= weights.sum(-1, keepdims=True)  # the logarithm is rounded
    d_weights = jnp.einsum("bknd,bksd->bkns", g, v)
    # Softmax moves a logit by how far its weight's gradient is from the mean of all.
    d_logits = weights * (d_weights - jnp.sum(weights * d_weights, -1, keepdims=True))
    d_bias = None if bias is None else d_logits.sum((1, 2)).astype(bias.dtype)
    d_logits *= query.shape[-1] ** -0.5
    gradients = (
        jnp.einsum("bkns,bksd->bknd", d_logits, k),
        jnp.einsum("bkns,bknd->bksd", d_logits, q),
        jnp.einsum("bkns,bknd->bksd", weights, g),
    )
    d_query, d_key, d_value = (x.swapaxes(1, 2).astype(query.dtype) for x in gradients)
    return d_query, d_key, d_value, d_bias


_attention.defvjp(_forward, _backward)
