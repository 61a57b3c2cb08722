"""The transformer that CLIP and ViCLIP share: pre-norm blocks, GELU by ``x sigmoid(1.702 x)``.

Parameters of the blocks are stacked on a leading axis and applied by one scan. Norms and softmax
are computed in float32 whatever ``dtype`` is.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from helios_jax.kernels.attention import attention
from helios_jax.types import Array, DTypeLike, Float

EPSILON = 1e-5


class Transformer(nn.Module):
    """Blocks of attention and feed-forward on a residual stream.

    Attributes:
      layers: number of blocks.
      heads: heads of attention; they divide the width.
      causal: whether a token sees only itself and those before it.
      dtype: in which to compute.
    """

    layers: int
    heads: int
    causal: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        blocks = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        return blocks(self.heads, self.causal, self.dtype, name="blocks")(x, None)[0]


class _Block(nn.Module):
    heads: int
    causal: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], _: None) -> tuple[Float[Array, "B N D"], None]:
        width = x.shape[-1]
        attend = _Attention(self.heads, self.causal, self.dtype, name="attn")
        x = x + attend(layer_norm(x, "ln_1").astype(self.dtype))
        hidden = layer_norm(x, "ln_2").astype(self.dtype)
        hidden = nn.Dense(4 * width, dtype=self.dtype, name="c_fc")(hidden)
        hidden = hidden * nn.sigmoid(1.702 * hidden)
        return x + nn.Dense(width, dtype=self.dtype, name="c_proj")(hidden), None


class _Attention(nn.Module):
    """``softmax(q k^T / sqrt(d)) v`` over all tokens, or those up to a token's own."""

    heads: int
    causal: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        tokens = x.shape[1]
        head_width = width // self.heads
        project = functools.partial(nn.DenseGeneral, dtype=self.dtype)
        qkv = project((3, self.heads, head_width), name="qkv")(x)
        q, k, v = (qkv[:, :, part] for part in range(3))
        if not self.causal:
            return project(width, axis=(-2, -1), name="out")(attention(q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        scores *= head_width**-0.5
        seen = jnp.tril(jnp.ones((tokens, tokens), bool))
        scores = jnp.where(seen[None, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return project(width, axis=(-2, -1), name="out")(mixed)


def layer_norm(x: Float[Array, "*B D"], name: str) -> Float[Array, "*B D"]:
    """A layer norm in float32, of the module that is being applied."""
    return nn.LayerNorm(EPSILON, dtype=jnp.float32, name=name)(x.astype(jnp.float32))
