"""Softmax attention of one head after another, for CPUs: one head's logits stay near the cores, in
memory that is used again.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ..matmul import dot

ATTENDED = "attended"
"""Name of what a checkpoint's policy keeps where the backward pass shall not attend again."""


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v in float32, products as :func:`..products.dot` makes them;
    ``bias`` is float32, one number a key.

    The backward pass is given the logarithms of the weights' sums, and computes the weights again.
    """
    B, N, K, d = query.shape
    heads = [x.swapaxes(1, 2).reshape(B * K, -1, d) for x in (query, key, value)]
    if bias is not None:
        bias = jnp.repeat(bias, K, axis=0)
    attended = jax.lax.map(lambda arrays: _head(*arrays), (*heads, bias))
    return attended.reshape(B, K, N, d).swapaxes(1, 2)


@jax.custom_vjp
def _head(
    query: Float[Array, "N d"],
    key: Float[Array, "S d"],
    value: Float[Array, "S d"],
    bias: Float[Array, "S"] | None,
) -> Float[Array, "N d"]:
    return _forward(query, key, value, bias)[0]


def _forward(query, key, value, bias):
    q, k, v = _scaled(query, key, value)
    logits = dot(q, k, 1, 1)
    if bias is not None:
        logits += bias[None]
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1, keepdims=True)
    attended = checkpoint_name(dot(weights, v, 1, 0) / total, ATTENDED)
    log_total = checkpoint_name((largest + jnp.log(total))[:, 0], ATTENDED)
    return attended.astype(value.dtype), (query, key, value, bias, attended, log_total)


def _backward(residuals, cotangent):
    query, key, value, bias, attended, log_total = residuals
    q, k, v = _scaled(query, key, value)
    g = cotangent.astype(jnp.float32)
    # Keys first: of the five products only one is of a transposed matrix.
    logits = dot(k, q, 1, 1)
    if bias is not None:
        logits += bias[:, None]
    weights = jnp.exp(logits - log_total[None])
    d_logits = weights * (dot(v, g, 1, 1) - (g * attended).sum(-1)[None])
    d_query, d_key, d_value = (
        dot(d_logits, k, 0, 0) * query.shape[-1] ** -0.5,
        dot(d_logits, q, 1, 0),
        dot(weights, g, 1, 0),
    )
    d_bias = None if bias is None else d_logits.sum(-1)
    return d_query.astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype), d_bias


def _scaled(query, key, value):
    """In float32, with the logits' factor in the queries."""
    return (
        query.astype(jnp.float32) * query.shape[-1] ** -0.5,
        key.astype(jnp.float32),
        value.astype(jnp.float32),
    )


_head.defvjp(_forward, _backward)
