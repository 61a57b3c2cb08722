"""One block of the Helios transformer: self-attention of history and noisy tokens, cross-attention
of the noisy ones to the text, feed-forward.

A sequence is a static number of history tokens, then the noisy ones (:class:`Segments`). What
differs between the two, as their modulation, has one row for each.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from helios_jax.config import TransformerConfig
from helios_jax.kernels.attention import attention
from helios_jax.kernels.norm_rope import norm_rope
from helios_jax.kernels.quantize import Quantized, UnscaledProduct, quantize, scaled
from helios_jax.kernels.residual_norm import (
    Norm,
    gated_residual,
    gated_residual_norm,
    modulated_layer_norm,
    rms_norm,
)
from helios_jax.models.layer_stack import TEXT_ATTENTION_OUTPUT
from helios_jax.models.layers import Projection
from helios_jax.types import Array, DTypeLike, Float


class TextCache(NamedTuple):
    """Cross-attention keys and values of the text tokens.

    Attributes:
      key, value: ``[L, B, S, K, d]`` for all blocks, or a tuple of one array a block where the
        blocks' parameters are; inside one block without the first axis.
      bias: float32, added to the logits of each text token, as
        :func:`~helios_jax.kernels.attention.padding_bias` makes it, or None.
    """

    key: Float[Array, "*L B S K d"] | tuple[Float[Array, "B S K d"], ...]
    value: Float[Array, "*L B S K d"] | tuple[Float[Array, "B S K d"], ...]
    bias: Float[Array, "B S"] | None


class Rope(NamedTuple):
    """Cosines and sines of every token of a sequence."""

    cos: Float[Array, "N pairs"]
    sin: Float[Array, "N pairs"]


class Segments(NamedTuple):
    """How a sequence of tokens is divided, and for which of them a block computes its result.

    Attributes:
      history: number of history tokens; they come first.
      spare: number of last tokens that fill the rows of matrix products and are attended to by
        nobody.
      noisy_only: compute the result for noisy tokens alone and spend nothing on the others, as in
        the last block, whose history nobody reads.
    """

    history: int
    spare: int = 0
    noisy_only: bool = False


class SelfAttention(nn.Module):
    """Full bidirectional attention over history and noisy tokens, RMS norm and rotary embedding on
    queries and keys.
    """

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg = self.config
        heads = (cfg.num_attention_heads, cfg.attention_head_dim)
        project = _projection(cfg, self.dtype, self.param_dtype)
        self.qkv = project((3, *heads))
        self.norm_q = Scale(cfg.width, self.param_dtype)
        self.norm_k = Scale(cfg.width, self.param_dtype)
        self.out = project((cfg.width,), inputs=2)
        if cfg.is_amplify_history:
            shape = (cfg.num_attention_heads if cfg.history_scale_mode == "per_head" else 1,)
            self.history_key_scale = self.param(
                "history_key_scale", nn.initializers.ones, shape, jnp.float32
            )

    def __call__(
        self,
        x: Float[Array, "B n_in D"] | Quantized,
        rope: Rope,
        *,
        segments: Segments,
        history_qkv: Float[Array, "B h 3 K d"] | None = None,
    ) -> Float[Array, "B n_out D"] | UnscaledProduct:
        """Attend.

        Args:
          x: the sequence, or its noisy tokens only when ``history_qkv`` is given.
          rope: of the whole sequence.
          segments: how the sequence is divided, and for which tokens the result is computed.
          history_qkv: queries, keys and values of the history tokens where they are already known.
        """
        cfg = self.config
        qkv = self.qkv.unscaled(x)
        if history_qkv is not None:
            qkv = jnp.concatenate([history_qkv, scaled(qkv)], axis=1)
        gain = None
        if cfg.is_amplify_history:
            gain = 1 + 9 * jax.nn.sigmoid(self.history_key_scale)
            gain = jnp.broadcast_to(gain, (cfg.num_attention_heads,))
        query, key, value = norm_rope(
            qkv,
            (self.norm_q(), self.norm_k()),
            rope,
            gain,
            history=segments.history,
            eps=cfg.eps,
            keys=qkv.shape[1] - segments.spare,
            implementation=cfg.kernels,
        )
        # The queries of history are computed even if they are not used: the slice of the kernel
        # that would avoid it would be copied at every step, which costs what it saves.
        query = query[:, segments.history if segments.noisy_only else 0 :]
        attended = attention(query, key, value, implementation=cfg.attention)
        return self.out.unscaled(attended)


class CrossAttention(nn.Module):
    """Attention to the text, whose keys and values depend on nothing but the prompt."""

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg = self.config
        heads = (cfg.num_attention_heads, cfg.attention_head_dim)
        project = _projection(cfg, self.dtype, self.param_dtype)
        self.q = project(heads)
        self.kv = project((2, *heads))
        self.norm_q = Scale(cfg.width, self.param_dtype)
        self.norm_k = Scale(cfg.width, self.param_dtype)
        self.out = project((cfg.width,), inputs=2)

    def embed_text(
        self, text: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S K d"], Float[Array, "B S K d"]]:
        """Keys and values of the text tokens."""
        key_value = self.kv(text)
        return self._norm(key_value[:, :, 0], self.norm_k()), key_value[:, :, 1]

    def __call__(
        self, x: Float[Array, "B n D"] | Quantized, text: TextCache
    ) -> Float[Array, "B n D"] | UnscaledProduct:
        query = self._norm(self.q.unscaled(x), self.norm_q())
        key = cast(Array, text.key)
        value = cast(Array, text.value)
        kind = dict(name=TEXT_ATTENTION_OUTPUT, implementation=self.config.attention)
        return self.out.unscaled(attention(query, key, value, text.bias, **kind))

    def _norm(self, x, scale):
        """RMS norm over all heads at once."""
        cfg = self.config
        fused = dict(eps=cfg.eps, implementation=cfg.kernels)
        flat = x.flat() if isinstance(x, UnscaledProduct) else x.reshape(*x.shape[:2], -1)
        return rms_norm(flat, scale, **fused).reshape(x.shape)


class Scale(nn.Module):
    """The weight of an RMS norm."""

    features: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, "D"]:
        return self.param("scale", nn.initializers.ones, (self.features,), self.param_dtype)


class Affine(nn.Module):
    """Scale and bias of a layer norm, kept in float32."""

    features: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
        scale = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return scale, bias


class FeedForward(nn.Module):
    """down(gelu_tanh(up(x)))."""

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        project = _projection(self.config, self.dtype, self.param_dtype)
        self.up = project((self.config.ffn_dim,))
        self.down = project((self.config.width,))

    def __call__(
        self, x: Float[Array, "B N D"] | Quantized
    ) -> Float[Array, "B N D"] | UnscaledProduct:
        y = self.up.unscaled(x)
        if self.down.takes_quantized():
            y = quantize(y, gelu=True, implementation=self.config.kernels)
        else:
            y = nn.gelu(scaled(y), approximate=True)
        return self.down.unscaled(y)


def _projection(
    config: TransformerConfig, dtype: DTypeLike, param_dtype: DTypeLike
) -> Callable[..., Projection]:
    """What the large projections of a block have in common."""
    return functools.partial(
        Projection,
        dtype=dtype,
        param_dtype=param_dtype,
        round_activations=config.round_activations,
        kernels=config.kernels,
    )


class Block(nn.Module):
    """A transformer block.

    Modulation rows, in the checkpoint's order: shift, scale, gate of self-attention, then shift,
    scale, gate of the feed-forward.
    """

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg = self.config
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.scale_shift_table = self.param(
            "scale_shift_table",
            nn.initializers.normal(cfg.width**-0.5),
            (6, cfg.width),
            jnp.float32,
        )
        self.attn1 = SelfAttention(cfg, **dtypes)
        self.attn2 = CrossAttention(cfg, **dtypes)
        self.norm2 = Affine(cfg.width)
        self.ffn = FeedForward(cfg, **dtypes)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        modulation: Float[Array, "#B 2 6 D"],
        rope: Rope,
        text: TextCache,
        *,
        segments: Segments,
        history_qkv: Float[Array, "B h 3 K d"] | None = None,
        normed: Float[Array, "B N D"] | Quantized | None = None,
        following: tuple[Float[Array, "#B 2 D"], Float[Array, "#B 2 D"]] | None = None,
    ) -> (
        Float[Array, "B n_out D"] | tuple[Float[Array, "B N D"], Float[Array, "B N D"] | Quantized]
    ):
        """Run the block.

        Args:
          x: history tokens, then the noisy ones.
          modulation: of history (row 0) and noisy tokens (row 1).
          rope: of the sequence.
          text: keys and values of this block.
          segments: how the sequence is divided, and for which tokens the result is computed.
          history_qkv: this block's queries, keys and values of the history, where
            :meth:`embed_history` computed them before.
          normed: this block's first norm of ``x``, where the block before has computed it;
            quantized if this block's projection takes it so.
          following: shift and scale of the next block's first norm. It is returned beside the
            result then, from the kernel that adds the feed-forward: ``x`` is read once for both.
        """
        cfg = self.config
        history = segments.history
        norm = Norm(eps=cfg.eps)
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self._rows(modulation)

        known = 0 if history_qkv is None else history
        if normed is None:
            normed = modulated_layer_norm(
                x[:, known:],
                shift,
                scale,
                history=history - known,
                eps=cfg.eps,
                quantized=self.attn1.qkv.takes_quantized(),
                implementation=cfg.kernels,
            )
        attended = self.attn1(normed, rope, segments=segments, history_qkv=history_qkv)
        if segments.noisy_only:
            x = x[:, history:]
            history = 0

        scale, shift = self.norm2()
        x, normed = gated_residual_norm(
            x,
            attended,
            gate,
            (scale[None, None], shift[None, None]),
            history=history,
            norm=Norm(eps=cfg.eps, noisy_only=cfg.guidance_cross_attn),
            quantized=self.attn2.q.takes_quantized(),
            implementation=cfg.kernels,
        )
        x, normed = gated_residual_norm(
            x,
            self.attn2(normed, text),
            None,
            (1 + ff_scale, ff_shift),
            history=history,
            norm=norm,
            quantized=self.ffn.up.takes_quantized(),
            implementation=cfg.kernels,
        )
        y = self.ffn(normed)
        if following is None:
            return gated_residual(x, y, ff_gate, history=history, implementation=cfg.kernels)
        shift, scale = following
        return gated_residual_norm(
            x,
            y,
            ff_gate,
            (1 + scale, shift),
            history=history,
            norm=norm,
            quantized=self.attn1.qkv.takes_quantized(),
            implementation=cfg.kernels,
        )

    def embed_text(
        self, text: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S K d"], Float[Array, "B S K d"]]:
        """Cross-attention keys and values of the text."""
        return self.attn2.embed_text(text)

    def embed_history(
        self, tokens: Float[Array, "B h D"], modulation: Float[Array, "#B 2 6 D"]
    ) -> Float[Array, "B h 3 K d"]:
        """Queries, keys and values of history tokens, which in the first block are the same at
        every step of a chunk.
        """
        shift, scale, *_ = self._rows(modulation)
        fused = dict(eps=self.config.eps, implementation=self.config.kernels)
        normed = modulated_layer_norm(tokens, shift, scale, history=tokens.shape[1], **fused)
        return self.attn1.qkv(normed)

    def _rows(self, modulation: Float[Array, "#B 2 6 D"]) -> list[Float[Array, "#B 2 D"]]:
        """This block's six modulation rows of each segment, float32."""
        return modulation_rows(self.scale_shift_table, modulation)


def modulation_rows(
    table: Float[Array, "6 D"], modulation: Float[Array, "#B 2 6 D"]
) -> list[Float[Array, "#B 2 D"]]:
    """The six modulation rows of each segment in the block with this ``scale_shift_table``,
    float32.
    """
    rows = table[None, None] + modulation.astype(jnp.float32)
    return [rows[:, :, row] for row in range(6)]
