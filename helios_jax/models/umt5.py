"""UMT5 text encoder: a T5 encoder whose every layer has its own relative position bias (Chung et
al. 2023, arXiv:2304.09151).

The layers' parameters are stacked on a leading axis and applied by one scan. No layer has a bias
vector; scores are not divided by sqrt(d).
"""

import functools
import math
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from helios_jax.config import TextEncoderConfig
from helios_jax.types import Array, Bool, Float, Int, Params

LENGTH_BUCKETS = (64, 128, 256, 512)
"""Prompts are padded up to one of these lengths, so that prompts of similar length share a compiled
program.
"""

MIN_PADDING = 4
"""Padding rows to keep: in the transformer's cross-attention they share the weight of all."""


class UMT5Encoder(nn.Module):
    """Token ids to text features.

    Args:
      config: sizes.
      dtype: of the computation; norms, scores and softmax are always float32.
      param_dtype: of parameters made by ``init``.
    """

    config: TextEncoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B S"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Encode prompts.

        Args:
          ids: token ids.
          mask: true on real tokens. Nothing attends to padding; features at its own positions have
            no meaning.

        Returns:
          Features in ``dtype``.
        """
        cfg = self.config
        embed = nn.Embed(
            cfg.vocab_size,
            cfg.d_model,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="token_embedding",
        )
        blocks = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=cfg.num_layers,
        )(cfg, self.dtype, self.param_dtype, name="blocks")
        x, _ = blocks(embed(ids), mask)
        return _RMSNorm(cfg.layer_norm_epsilon, self.dtype, self.param_dtype, name="final_norm")(x)


def encode_text(
    encoder: UMT5Encoder, params: Params, ids: Int[np.ndarray, "B S"], lengths: Int[np.ndarray, "B"]
) -> tuple[Float[Array, "B s D"], Int[Array, "B"]]:
    """Features of tokenized prompts, zero past each prompt's last token, as the transformer takes
    them.

    Rows are cut at ``s``, the first of :data:`LENGTH_BUCKETS` with :data:`MIN_PADDING` rows beyond
    the longest prompt. Nothing attends to padding, so the rows that are left are the same, and the
    others would be zero.

    Args:
      encoder: the module.
      params: its parameters.
      ids: token ids, as :class:`~helios_jax.models.tokenizer.Tokenizer` gives them.
      lengths: tokens of each prompt, the end of sequence included.

    Returns:
      The features in the encoder's ``dtype``, and ``lengths``, both on the device.

    Raises:
      ValueError: if a length is not in 1..S, or an id is not in the encoder's vocabulary.
    """
    if lengths.min() < 1 or lengths.max() > ids.shape[1]:
        raise ValueError(
            f"lengths={lengths.tolist()} must lie in 1..{ids.shape[1]}, the padded length of the"
            " token ids"
        )
    vocab_size = encoder.config.vocab_size
    if ids.max() >= vocab_size:
        raise ValueError(
            f"token id {ids.max()} is outside text_encoder.vocab_size={vocab_size}: this tokenizer"
            " is another text encoder's"
        )
    needed = lengths.max() + MIN_PADDING
    bucket = min((size for size in LENGTH_BUCKETS if size >= needed), default=ids.shape[1])
    return encode_ids(encoder, params, ids[:, :bucket], lengths)


@functools.partial(jax.jit, static_argnums=0)
def encode_ids(
    encoder: UMT5Encoder, params: Params, ids: Int[Array, "B S"], lengths: Int[Array, "B"]
) -> tuple[Float[Array, "B S D"], Int[Array, "B"]]:
    """The compiled part of :func:`encode_text`: no cutting, no checks."""
    mask = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
    # `apply` returns a pair only if a collection is mutable.
    features = cast(Array, encoder.apply({"params": params}, ids, mask))
    return jnp.where(mask[..., None], features, jnp.zeros_like(features)), lengths


class _Block(nn.Module):
    """Self-attention, then a gated feed-forward, each of the normed residual stream."""

    config: TextEncoderConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S D"], None]:
        cfg = self.config
        dtypes = (self.dtype, self.param_dtype)
        normed = _RMSNorm(cfg.layer_norm_epsilon, *dtypes, name="attention_norm")(x)
        x = x + _Attention(cfg, *dtypes, name="attention")(normed, mask)
        normed = _RMSNorm(cfg.layer_norm_epsilon, *dtypes, name="ffn_norm")(x)
        x = x + _FeedForward(cfg, *dtypes, name="ffn")(normed)
        return x, None


class _Attention(nn.Module):
    """``softmax(q k^T + bias[bucket(key - query)]) v``."""

    config: TextEncoderConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        cfg = self.config
        heads = (cfg.num_heads, cfg.d_kv)
        project = functools.partial(
            nn.DenseGeneral, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype
        )
        bias_table = nn.Embed(
            cfg.relative_attention_num_buckets,
            cfg.num_heads,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            embedding_init=nn.initializers.normal(cfg.d_model**-0.5),
            name="relative_attention_bias",
        )

        qkv = project((3, *heads), kernel_init=_init_qkv(cfg.d_kv), name="qkv")(x)
        q, k, v = (qkv[:, :, i] for i in range(3))
        buckets = relative_position_buckets(
            x.shape[1], cfg.relative_attention_num_buckets, cfg.relative_attention_max_distance
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        scores += bias_table(buckets).transpose(2, 0, 1)[None]
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        attended = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return project(cfg.d_model, axis=(-2, -1), name="out")(attended)


class _FeedForward(nn.Module):
    """``(gelu(x wi_0) * (x wi_1)) wo``."""

    config: TextEncoderConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        dense = functools.partial(
            nn.Dense, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype
        )
        gate = nn.gelu(dense(self.config.d_ff, name="wi_0")(x), approximate=True)
        hidden = gate * dense(self.config.d_ff, name="wi_1")(x)
        return dense(self.config.d_model, name="wo")(hidden)


class _RMSNorm(nn.Module):
    """``x / rms(x)`` in float32, then rounded to ``dtype`` and scaled, as Transformers does."""

    epsilon: float
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return y.astype(self.dtype) * scale.astype(self.dtype)[None, None]


def relative_position_buckets(
    length: int, num_buckets: int, max_distance: int
) -> Int[np.ndarray, "S S"]:
    """The row of the bias table for each (query, key) pair of a sequence.

    Half of the buckets are for keys after the query. Of each half, the first half are single
    distances; the rest grow by a constant factor up to ``max_distance``, and all farther distances
    share the last one.

    Args:
      length: S, tokens of the sequence.
      num_buckets: rows of the bias table.
      max_distance: in tokens.

    Returns:
      Rows of the table, by query and key.
    """
    half = num_buckets // 2
    exact = half // 2
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(offset)
    # float32, as in Transformers: where the edge of a bucket is a whole number, the rounding
    # decides the side.
    ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
    growth = np.log(ratio) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (growth * np.float32(half - exact)).astype(np.int32), half - 1)
    bucket = np.where(distance < exact, distance, far)
    return (np.where(offset > 0, half, 0) + bucket).astype(np.int32)


def _init_qkv(d_kv: int) -> nn.initializers.Initializer:
    """T5's initializer for the three kernels at once: deviation 1/sqrt(D), and for queries another
    factor of 1/sqrt(d), by which T5 does not divide the scores.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        kernel = nn.initializers.lecun_normal()(key, shape, dtype)
        return kernel.at[:, : shape[1] // 3].multiply(d_kv**-0.5)

    return init
