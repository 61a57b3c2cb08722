"""cuDNN's flash attention, through jax.nn."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..dispatch import Target
from ..gradient import with_reference_gradient
from . import reference

LOWEST = -(2.0**15)
"""A logit offset whose exponential is 0, held by float16 too; cuDNN errs on differences of much larger ones."""


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
) -> Float[Array, "B N K d"]:
    """As the reference, with ``bias`` rounded to the queries' dtype. Without ``bias`` the gradient is cuDNN's own, with it the reference's."""
    if bias is None:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    return _biased(query, key, value, bias)


def _forward(query, key, value, bias):
    # One matrix of offsets for all heads: cuDNN broadcasts over heads, and jax.nn wants every query's row (4 MiB at 8640 x 256).
    rows = jnp.maximum(bias, LOWEST).astype(query.dtype)[:, None, None, :]
    rows = jnp.broadcast_to(rows, (*rows.shape[:2], query.shape[1], rows.shape[3]))
    return jax.nn.dot_product_attention(query, key, value, rows, implementation="cudnn")


# cuDNN's backward would return the offsets' gradient a query, and takes even sizes only. Offsets go with few keys: their logits fit in memory.
_biased = with_reference_gradient(_forward, reference.attention)


def refuses(target: Target, query: Array, key: Array, value: Array, bias: Array | None = None) -> str | None:
    """Why cuDNN cannot serve, or None."""
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.platform}"
    if query.dtype not in (jnp.bfloat16, jnp.float16) or not query.dtype == key.dtype == value.dtype:
        return f"it takes bfloat16 or float16, one for all, not {query.dtype}, {key.dtype}, {value.dtype}"
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return f"it takes heads of up to 128 channels, a multiple of 8, not {query.shape[-1]}"
    return None
