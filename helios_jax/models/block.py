"""One block of the Helios transformer: self-attention over history and noisy tokens, text cross-attention of the noisy ones, feed-forward.

Every method takes the static number ``history`` of leading history tokens; what differs between the two segments is a pair of rows.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from helios_jax.config import TransformerConfig
from helios_jax.kernels.attention import attention
from helios_jax.kernels.gated_residual import gated_residual
from helios_jax.kernels.modulated_norm import modulated_layer_norm
from helios_jax.kernels.norm import layer_norm, rms_norm
from helios_jax.kernels.norm_rope import norm_rope
from helios_jax.models.layers import Projection
from helios_jax.types import Array, DTypeLike, Float

QUERY, KEY_VALUE = slice(0, 1), slice(1, 3)
HIDDEN = -1e30
"""Logit offset of a text row that stands for no token; finite, since a row of infinities would make NaN."""


class TextCache(NamedTuple):
    """Keys and values of the text tokens; ``[L, B, S, K, d]`` for all blocks, without the first axis inside one.

    Attributes:
      bias: [B, S] float32 offset of each text token's logit (``HIDDEN`` hides a token, ln m counts it m times), or None.
    """

    key: Float[Array, "*L B S K d"]
    value: Float[Array, "*L B S K d"]
    bias: Float[Array, "B S"] | None


class Rope(NamedTuple):
    """Cosines and sines of every token of a sequence."""

    cos: Float[Array, "N pairs"]
    sin: Float[Array, "N pairs"]


class SelfAttention(nn.Module):
    """Full bidirectional attention over history and noisy tokens, RMS norm and rotary embedding on queries and keys."""

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg = self.config
        heads = (cfg.num_attention_heads, cfg.attention_head_dim)
        self.qkv = Projection((3, *heads), dtype=self.dtype, param_dtype=self.param_dtype)
        self.norm_q, self.norm_k = Scale(cfg.width, self.param_dtype), Scale(cfg.width, self.param_dtype)
        self.out = Projection((cfg.width,), inputs=2, dtype=self.dtype, param_dtype=self.param_dtype)
        if cfg.is_amplify_history:
            shape = (cfg.num_attention_heads if cfg.history_scale_mode == "per_head" else 1,)
            self.history_key_scale = self.param("history_key_scale", nn.initializers.ones, shape, jnp.float32)

    def __call__(
        self,
        x: Float[Array, "B n_in D"],
        rope: Rope,
        *,
        history: int,
        history_qkv: Float[Array, "B h 3 K d"] | None = None,
        noisy_only: bool = False,
    ) -> Float[Array, "B n_out D"]:
        """Attend.

        Args:
          x: the sequence, or its noisy tokens only when ``history_qkv`` is given.
          rope: of the whole sequence.
          history: number of history tokens.
          history_qkv: queries, keys and values of the history tokens where they are already known.
          noisy_only: compute the result for noisy tokens only.
        """
        query, key, value = self._project(x, history, history_qkv, noisy_only)
        skipped = key.shape[1] - query.shape[1]
        eps = self.config.eps
        query = norm_rope(query, self.norm_q(), rope.cos[skipped:], rope.sin[skipped:], eps=eps)
        key = norm_rope(key, self.norm_k(), rope.cos, rope.sin, eps=eps)
        if self.config.is_amplify_history and history:
            gain = 1 + 9 * jax.nn.sigmoid(self.history_key_scale)[None, None, :, None]
            amplified = (key[:, :history].astype(jnp.float32) * gain).astype(key.dtype)
            key = jnp.concatenate([amplified, key[:, history:]], axis=1)
        return self.out(attention(query, key, value))

    def _project(self, x, history, history_qkv, noisy_only):
        """Queries, keys, values, each [B, tokens, K, d]; queries of noisy tokens only where no other is asked for."""
        if history_qkv is not None:
            qkv = jnp.concatenate([history_qkv, self.qkv(x)], axis=1)
            query, key, value = (qkv[:, :, part] for part in range(3))
            return query[:, history if noisy_only else 0 :], key, value
        if noisy_only:
            key_value = self.qkv(x, KEY_VALUE)
            return self.qkv(x[:, history:], QUERY)[:, :, 0], key_value[:, :, 0], key_value[:, :, 1]
        qkv = self.qkv(x)
        return tuple(qkv[:, :, part] for part in range(3))


class CrossAttention(nn.Module):
    """Attention to the text, whose keys and values depend on nothing but the prompt."""

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg = self.config
        heads = (cfg.num_attention_heads, cfg.attention_head_dim)
        self.q = Projection(heads, dtype=self.dtype, param_dtype=self.param_dtype)
        self.kv = Projection((2, *heads), dtype=self.dtype, param_dtype=self.param_dtype)
        self.norm_q, self.norm_k = Scale(cfg.width, self.param_dtype), Scale(cfg.width, self.param_dtype)
        self.out = Projection((cfg.width,), inputs=2, dtype=self.dtype, param_dtype=self.param_dtype)

    def embed_text(self, text: Float[Array, "B S D"]) -> tuple[Float[Array, "B S K d"], Float[Array, "B S K d"]]:
        """Keys and values of the text tokens."""
        key_value = self.kv(text)
        return self._norm(key_value[:, :, 0], self.norm_k()), key_value[:, :, 1]

    def __call__(self, x: Float[Array, "B n D"], text: TextCache) -> Float[Array, "B n D"]:
        return self.out(attention(self._norm(self.q(x), self.norm_q()), text.key, text.value, text.bias))

    def _norm(self, x, scale):
        """RMS norm over all heads at once."""
        return rms_norm(x.reshape(*x.shape[:2], -1), scale, eps=self.config.eps).reshape(x.shape)


class Scale(nn.Module):
    """The weight of an RMS norm."""

    features: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, "D"]:
        return self.param("scale", nn.initializers.ones, (self.features,), self.param_dtype)


class LayerNorm(nn.Module):
    """Layer norm with weight and bias, kept in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return layer_norm(x, scale, bias, eps=self.eps)


class FeedForward(nn.Module):
    """down(gelu_tanh(up(x)))."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        hidden = Projection((self.features,), dtype=self.dtype, param_dtype=self.param_dtype, name="up")(x)
        hidden = nn.gelu(hidden, approximate=True)
        return Projection(x.shape[-1:], dtype=self.dtype, param_dtype=self.param_dtype, name="down")(hidden)


class Block(nn.Module):
    """A transformer block.

    Modulation rows, in the checkpoint's order: shift, scale, gate of self-attention, then shift, scale, gate of the feed-forward.
    """

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, dtypes = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.scale_shift_table = self.param("scale_shift_table", nn.initializers.normal(cfg.width**-0.5), (6, cfg.width), jnp.float32)
        self.attn1 = SelfAttention(cfg, **dtypes)
        self.attn2 = CrossAttention(cfg, **dtypes)
        self.norm2 = LayerNorm(cfg.eps)
        self.ffn = FeedForward(cfg.ffn_dim, **dtypes)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        modulation: Float[Array, "#B 2 6 D"],
        rope: Rope,
        text: TextCache,
        *,
        history: int,
        history_qkv: Float[Array, "B h 3 K d"] | None = None,
        noisy_only: bool = False,
    ) -> Float[Array, "B n_out D"]:
        """Run the block.

        Args:
          x: ``history`` history tokens, then the noisy ones.
          modulation: of history (row 0) and noisy tokens (row 1).
          rope: of the sequence.
          text: keys and values of this block.
          history: number of history tokens, static.
          history_qkv: this block's queries, keys and values of the history, where :meth:`embed_history` computed them before.
          noisy_only: return the noisy tokens only and spend nothing on the others: the last block's history feeds nothing.
        """
        eps = self.config.eps
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self._rows(modulation)

        skipped = 0 if history_qkv is None else history
        normed = modulated_layer_norm(x[:, skipped:], shift, scale, history=history - skipped, eps=eps)
        attended = self.attn1(normed, rope, history=history, history_qkv=history_qkv, noisy_only=noisy_only)
        if noisy_only:
            x, history = x[:, history:], 0
        x = gated_residual(x, attended, gate, history=history)

        if self.config.guidance_cross_attn and history:
            noisy = x[:, history:]
            x = jnp.concatenate([x[:, :history], noisy + self.attn2(self.norm2(noisy), text)], axis=1)
        else:
            x = x + self.attn2(self.norm2(x), text)

        normed = modulated_layer_norm(x, ff_shift, ff_scale, history=history, eps=eps)
        return gated_residual(x, self.ffn(normed), ff_gate, history=history)

    def embed_text(self, text: Float[Array, "B S D"]) -> tuple[Float[Array, "B S K d"], Float[Array, "B S K d"]]:
        """Cross-attention keys and values of the text."""
        return self.attn2.embed_text(text)

    def embed_history(self, tokens: Float[Array, "B h D"], modulation: Float[Array, "#B 2 6 D"]) -> Float[Array, "B h 3 K d"]:
        """Queries, keys and values of history tokens: in the first block they are the same at every step of a chunk."""
        shift, scale, *_ = self._rows(modulation)
        return self.attn1.qkv(modulated_layer_norm(tokens, shift, scale, history=tokens.shape[1], eps=self.config.eps))

    def _rows(self, modulation: Float[Array, "#B 2 6 D"]) -> list[Float[Array, "#B 2 D"]]:
        """This block's six modulation rows of each segment, float32."""
        rows = self.scale_shift_table[None, None] + modulation.astype(jnp.float32)
        return [rows[:, :, row] for row in range(6)]
