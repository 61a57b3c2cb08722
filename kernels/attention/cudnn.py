"""cuDNN's flash attention.

The one file that touches what jax keeps private for it: the attention that returns its softmax
sums, too, and its backward pass. jax.nn has both in one gradient, in which nothing has a name that
a ``jax.checkpoint`` policy could keep.
"""

import functools

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

MIN_BIAS = -(2.0**15)
"""A logit bias whose exponential is 0 and which float16 holds, too; cuDNN errs on differences of
much larger ones.
"""


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    name: str = "",
) -> Float[Array, "B N K d"]:
    """As the plain version, with ``bias`` rounded to the queries' dtype.

    Without a bias the attended values and the logarithms of the softmax sums have the ``name``, and
    where a policy keeps them the backward pass does not attend again.
    """
    if bias is None:
        return _attention(name, query, key, value)
    # cuDNN repeats a bias over heads by itself; over queries JAX repeats it in memory (4 MiB at
    # 8640 x 256).
    bias = jnp.maximum(bias, MIN_BIAS).astype(query.dtype)[:, None, None, :]
    bias = jnp.broadcast_to(bias, (bias.shape[0], 1, query.shape[1], bias.shape[3]))
    return jax.nn.dot_product_attention(query, key, value, bias, implementation="cudnn")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    name: str,
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
) -> Float[Array, "B N K d"]:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _forward(name, query, key, value):
    scale = query.shape[-1] ** -0.5
    results = fused.dot_product_attention(query, key, value, scale=scale, return_residual=True)
    attended, log_total = (checkpoint_name(result, name) for result in results)
    return attended, (query, key, value, attended, log_total)


def _backward(name, residuals, cotangent):
    query, key, value, attended, log_total = residuals
    # In place of a bias, of lengths and offsets of both sequences, and of two page tables.
    absent = [jnp.zeros(0, query.dtype)] * 7
    gradients = fused._dot_product_attention_bwd_p_wrapper.bind(
        *(query, key, value, *absent, log_total, attended, cotangent),
        scale=query.shape[-1] ** -0.5,
        seed=42,
        dropout_rate=0.0,
        variadic_args=(False, False),
        mask_type=fused.MaskType.NO_MASK,
        layout=fused.AttentionLayout.BTNH.value,
        sliding_window_length=None,
    )
    return tuple(gradients)


_attention.defvjp(_forward, _backward)
