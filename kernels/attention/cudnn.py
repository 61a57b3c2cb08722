"""cuDNN's flash attention, through jax.nn."""

import jax
import jax.numpy as jnp
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
) -> Float[Array, "B N K d"]:
    """As the plain version, with ``bias`` rounded to the queries' dtype."""
    if bias is not None:
        # cuDNN repeats a bias over heads by itself; over queries JAX repeats it in memory (4 MiB at
        # 8640 x 256).
        bias = jnp.maximum(bias, MIN_BIAS).astype(query.dtype)[:, None, None, :]
        bias = jnp.broadcast_to(bias, (bias.shape[0], 1, query.shape[1], bias.shape[3]))
    return jax.nn.dot_product_attention(query, key, value, bias, implementation="cudnn")
