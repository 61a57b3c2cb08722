"""Softmax attention of one head after another, for CPUs: the logits of one head stay in the caches,
in memory that the next head uses again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ..matmul import dot


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    name: str = "",
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v in float32, products by :func:`..matmul.dot`; ``bias`` is
    float32, one number a key.

    The forward pass keeps the logarithms of the softmax sums, from which the backward pass computes
    the weights again. Under ``name`` a ``jax.checkpoint`` policy finds them and the attended
    values.
    """
    B, N, K, d = query.shape
    heads = [x.swapaxes(1, 2).reshape(B * K, -1, d) for x in (query, key, value)]
    if bias is not None:
        bias = jnp.repeat(bias, K, axis=0)
    attended = jax.lax.map(lambda arrays: _head(name, *arrays), (*heads, bias))
    return attended.reshape(B, K, N, d).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head(
    name: str,
    query: Float[Array, "N d"],
    key: Float[Array, "S d"],
    value: Float[Array, "S d"],
    bias: Float[Array, "S"] | None,
) -> Float[Array, "N d"]:
    return _forward(name, query, key, value, bias)[0]


def _forward(name, query, key, value, bias):
    q, k, v = _scaled(query, key, value)
    logits = dot(q, k, 1, 1)
    if bias is not None:
        logits += bias[None]
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1, keepdims=True)
    attended = checkpoint_name(dot(weights, v, 1, 0) / total, name)
    log_total = checkpoint_name((largest + jnp.log(total))[:, 0], name)
    return attended.astype(value.dtype), (query, key, value, bias, attended, log_total)


def _backward(name, residuals, cotangent):
    query, key, value, bias, attended, log_total = residuals
    q, k, v = _scaled(query, key, value)
    g = cotangent.astype(jnp.float32)
    # With keys before queries only one of the five products is of a transposed matrix.
    logits = dot(k, q, 1, 1)
    if bias is not None:
        logits += bias[:, None]
    weights = jnp.exp(logits - log_total[None])
    d_logits = weights * (dot(v, g, 1, 1) - (g * attended).sum(-1)[None])
    d_query = dot(d_logits, k, 0, 0) * query.shape[-1] ** -0.5
    d_key = dot(d_logits, q, 1, 0)
    d_value = dot(weights, g, 1, 0)
    d_bias = None if bias is None else d_logits.sum(-1)
    return d_query.astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype), d_bias


def _scaled(query, key, value):
    """All in float32, the queries divided by √d."""
    query = query.astype(jnp.float32) * query.shape[-1] ** -0.5
    return query, key.astype(jnp.float32), value.astype(jnp.float32)


_head.defvjp(_forward, _backward)
