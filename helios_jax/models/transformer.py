"""The Helios transformer: velocity of a noisy chunk of latents, given the frames before it and a
text.

The forward is cut where its inputs change, so that a sampler computes each part no more often than
it must: ``embed_text`` once a prompt, ``embed_time`` once a schedule, ``embed_history`` once a
chunk, ``denoise`` once a step. ``__call__`` is the four in a row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from helios_jax.config import TransformerConfig
from helios_jax.kernels.attention import ATTENTION_OUTPUT, padding_bias
from helios_jax.kernels.residual_norm import modulated_layer_norm
from helios_jax.models.block import Block, Rope, TextCache
from helios_jax.models.layers import PatchEmbedding, Projection
from helios_jax.models.rope import rope_table
from helios_jax.types import (
    Array,
    DTypeLike,
    Float,
    FrameIndices,
    History,
    Int,
    Params,
    PRNGKeyArray,
)


class TimeEmbedding(NamedTuple):
    """Rows for timesteps: ``temb`` [.., D] for the output head, ``modulation`` [.., 6, D] for the
    blocks.
    """

    temb: Float[Array, "*rows D"]
    modulation: Float[Array, "*rows 6 D"]


class HistoryTokens(NamedTuple):
    """History as the blocks see it, constant over the steps of a chunk.

    Attributes:
      tokens: long, mid, short, in this order.
      first_qkv: queries, keys and values of these tokens in the first block.
      rope: their rotations.
      modulation: the six rows of timestep 0, or None where history shares the noisy tokens' rows.
    """

    tokens: Float[Array, "B h D"]
    first_qkv: Float[Array, "B h 3 K d"] | None
    rope: Rope
    modulation: Float[Array, "1 6 D"] | None


class HeliosTransformer(nn.Module):
    """Helios (HeliosTransformer3DModel in Diffusers), channels last.

    Attributes:
      config: geometry.
      dtype: of activations and matrix products; norms, modulation, time embedding and residual sums
        are float32 whatever it is.
      param_dtype: of parameters made by ``init``; those that :func:`keeps_float32` names are
        float32 always.
    """

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, dtypes = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.patch_embedding = PatchEmbedding(cfg.width, cfg.patch_size, **dtypes)
        self.patch_short = PatchEmbedding(cfg.width, cfg.patch_size, **dtypes)
        self.patch_mid = PatchEmbedding(
            cfg.width, tuple(2 * size for size in cfg.patch_size), **dtypes
        )
        self.patch_long = PatchEmbedding(
            cfg.width, tuple(4 * size for size in cfg.patch_size), **dtypes
        )
        self.time_embedder = TimeMLP(cfg.width)
        self.time_proj = Projection((6, cfg.width), **dtypes)
        self.text_embedder = TextMLP(cfg.width, **dtypes)
        self.norm_out = OutputTable(cfg.width)
        self.proj_out = Projection((int(np.prod(cfg.patch_size)) * cfg.out_channels,), **dtypes)
        # Not by `param` where they exist: it would trace their initialisation to compare shapes,
        # which each block does for itself.
        there = self.has_variable("params", "blocks")
        self.blocks = (
            self.get_variable("params", "blocks")
            if there
            else self.param("blocks", self._init_blocks)
        )

    def __call__(
        self,
        latents: Float[Array, "B T H W C"],
        timestep: Float[Array, "B"] | Int[Array, "B"],
        text: Float[Array, "B S E"],
        history: History | None = None,
        frame_indices: FrameIndices | None = None,
    ) -> Float[Array, "B T H W C"]:
        """Velocity (noise minus data) of ``latents``.

        Args:
          latents: noisy latents, at any pyramid level.
          timestep: global time in [0, 1000).
          text: text embeddings with zero rows past the prompt, as the text encoder gives them.
          history: clean frames before the chunk; None runs the model as a plain text-to-video
            model.
          frame_indices: positions in time; needed with ``history``. Without, frames count from 0.
        """
        if history is not None and frame_indices is None:
            raise ValueError("history needs frame_indices: where in time its frames stand")
        indices = frame_indices or FrameIndices(tuple(range(latents.shape[1])), (), (), ())
        tokens = None if history is None else self.embed_history(history, indices)
        return self.denoise(
            latents, self.embed_time(timestep), self.embed_text(text), tokens, indices.noisy
        )

    def embed_time(self, timesteps: Float[Array, "rows"] | Int[Array, "rows"]) -> TimeEmbedding:
        """Embedding rows of any number of timesteps: sinusoids, MLP in float32, then SiLU and
        projection to six rows.
        """
        temb = self.time_embedder(sinusoids(timesteps, self.config.freq_dim)).astype(self.dtype)
        return TimeEmbedding(temb, self.time_proj(nn.silu(temb)))

    def embed_text(
        self,
        text: Float[Array, "B S E"],
        lengths: Int[Array, "B"] | None = None,
        total: int | None = None,
    ) -> TextCache:
        """Cross-attention keys and values of every block.

        Rows past a prompt's length are zeros, equal to one another, and attended to: there is no
        mask. Given ``lengths``, the first few of them stand for all ``total - length``, by offsets
        of their logits.

        Args:
          text: text embeddings, zero past each prompt's length; with ``lengths``, ``total`` rows or
            fewer, but more than the longest prompt has.
          lengths: real tokens of each prompt.
          total: rows of the full embedding; needed with ``lengths``.
        """
        bias = None
        if lengths is not None and text.shape[1] < total:
            bias = padding_bias(lengths, text.shape[1], total)
        embedded = self.text_embedder(text)
        block, stack = Block(self.config, self.dtype, self.param_dtype, parent=None), self.blocks

        def keys_and_values(embedded, layer):
            return block.apply(
                {"params": layer_params(stack, layer)}, embedded, method="embed_text"
            )

        run = _computed_again(keys_and_values, self.config.remat)
        _, (key, value) = jax.lax.scan(
            lambda _, layer: (None, run(embedded, layer)), None, jnp.arange(self.config.num_layers)
        )
        return TextCache(key, value, bias)

    def embed_history(self, history: History, indices: FrameIndices) -> HistoryTokens:
        """Tokens, rotations and first-block projections of the frames before a chunk."""
        cfg = self.config
        _, ph, pw = cfg.patch_size
        rows, columns = history.short.shape[2] // ph, history.short.shape[3] // pw
        tokens = jnp.concatenate(
            [
                self.patch_long(history.long),
                self.patch_mid(history.mid),
                self.patch_short(history.short),
            ],
            axis=1,
        )
        tables = [
            rope_table(
                frames, rows, columns, rope_dim=cfg.rope_dim, theta=cfg.rope_theta, pool=pool
            )
            for frames, pool in ((indices.long, 4), (indices.mid, 2), (indices.short, 1))
        ]
        rope = Rope(*(jnp.concatenate(tables) for tables in zip(*tables)))
        if not cfg.zero_history_timestep:
            return HistoryTokens(tokens, None, rope, None)
        modulation = self.embed_time(jnp.zeros((1,), jnp.float32)).modulation
        block = Block(cfg, self.dtype, self.param_dtype, parent=None)
        rows_of_both = jnp.broadcast_to(modulation[:, None], (1, 2, *modulation.shape[1:]))
        first_qkv = block.apply(
            {"params": layer_params(self.blocks, 0)}, tokens, rows_of_both, method="embed_history"
        )
        return HistoryTokens(tokens, first_qkv, rope, modulation)

    def denoise(
        self,
        latents: Float[Array, "B T H W C"],
        time: TimeEmbedding,
        text: TextCache,
        history: HistoryTokens | None,
        frames: tuple[int, ...],
        hooks: tuple[int, ...] | None = None,
    ) -> (
        Float[Array, "B T H W C"]
        | tuple[Float[Array, "B T H W C"], list[Float[Array, "B T rows columns D"]]]
    ):
        """Velocity of ``latents``.

        Args:
          latents: noisy latents, at any pyramid level.
          time: one row a sample, or one for all.
          text, history: of :meth:`embed_text` and :meth:`embed_history`.
          frames: the noisy frames' positions in time.
          hooks: numbers of blocks, ascending, after which the noisy tokens are returned, too.

        Returns:
          The velocity; with ``hooks``, also the tokens after each of these blocks.
        """
        cfg = self.config
        (B, T, H, W, _), (pt, ph, pw) = latents.shape, cfg.patch_size
        if T % pt or H % ph or W % pw:
            raise ValueError(
                f"latents of {T} x {H} x {W} do not divide into patches of {pt} x {ph} x {pw}"
            )
        x = self.patch_embedding(latents)
        rope = Rope(
            *rope_table(frames, H // ph, W // pw, rope_dim=cfg.rope_dim, theta=cfg.rope_theta)
        )
        h = 0
        modulation = [time.modulation, time.modulation]
        if history is not None:
            h = history.tokens.shape[1]
            x = jnp.concatenate([history.tokens, x], axis=1)
            rope = Rope(*(jnp.concatenate(tables) for tables in zip(history.rope, rope)))
            if history.modulation is not None:
                modulation[0] = history.modulation
        modulation = jnp.stack(
            [jnp.broadcast_to(rows, (B, *rows.shape[1:])) for rows in modulation], axis=1
        )

        x, hooked = self._run_blocks(
            x,
            modulation,
            rope,
            text,
            h,
            None if history is None else history.first_qkv,
            hooks or (),
        )

        table = self.norm_out()[None] + time.temb.astype(jnp.float32)[:, None]
        shift, scale = (jnp.broadcast_to(table[:, None, row], (B, 2, cfg.width)) for row in (0, 1))
        x = self.proj_out(
            modulated_layer_norm(
                x, shift, scale, history=0, eps=cfg.eps, implementation=cfg.kernels
            )
        )
        grid = dict(t=T // pt, h=H // ph, w=W // pw)
        velocity = rearrange(
            x, "b (t h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c", **grid, pt=pt, ph=ph, pw=pw
        )
        return (
            velocity
            if hooks is None
            else (
                velocity,
                [rearrange(tokens, "b (t h w) d -> b t h w d", **grid) for tokens in hooked],
            )
        )

    def _run_blocks(self, x, modulation, rope, text, history, first_qkv, hooks):
        """All blocks, of which the first is given its history projections and the last returns
        noisy tokens only; and those after each hook.
        """
        block = Block(self.config, self.dtype, self.param_dtype, parent=None)
        stack = {"params": self.blocks, "key": text.key, "value": text.value}

        def apply(x, layer, **options):
            def run(x, layer):
                x = checkpoint_name(x, BLOCK_INPUT)
                layer = layer_params(stack, layer)
                cache = TextCache(layer["key"], layer["value"], text.bias)
                return block.apply(
                    {"params": layer["params"]},
                    x,
                    modulation,
                    rope,
                    cache,
                    history=history,
                    **options,
                )

            return _computed_again(run, self.config.remat)(x, layer)

        last, hooked = self.config.num_layers - 1, []
        if last > 0:
            x = apply(x, 0, history_qkv=first_qkv)
            inner = [hook for hook in hooks if hook < last]

            def step(carry, layer):
                x, hooked = carry
                x = apply(x, layer)
                return (
                    x,
                    [
                        jnp.where(layer == hook, x[:, history:], tokens)
                        for hook, tokens in zip(inner, hooked)
                    ],
                ), None

            carry = x, [x[:, history:] for _ in inner]
            if self.config.unroll:
                x, hooked = functools.reduce(
                    lambda carry, layer: step(carry, layer)[0], range(1, last), carry
                )
            else:
                # Over indices: scanning over a part of the stack itself would copy that part, 26
                # GiB at 14B. And all in one, whatever is hooked: the backward pass of every scan
                # has a gradient of the whole stack.
                (x, hooked), _ = jax.lax.scan(step, carry, jnp.arange(1, last))
        x = apply(x, last, noisy_only=True, history_qkv=None if last else first_qkv)
        return x, [*hooked, x] if last in hooks else hooked

    def _init_blocks(self, key: PRNGKeyArray) -> Params:
        """Parameters of all blocks, stacked on a leading axis."""
        cfg = self.config
        x, modulation = (
            jnp.zeros((1, 1, cfg.width), self.dtype),
            jnp.zeros((1, 2, 6, cfg.width), self.dtype),
        )
        rope = Rope(*jnp.zeros((2, 1, cfg.attention_head_dim // 2), jnp.float32))

        def every_part(block):
            return block(x, modulation, rope, TextCache(*block.embed_text(x), None), history=0)

        block = Block(cfg, self.dtype, self.param_dtype, parent=None)
        # One after another: not every kernel has a batching rule.
        return jax.lax.map(
            lambda key: block.init(key, method=every_part)["params"],
            jax.random.split(key, cfg.num_layers),
        )


class TimeMLP(nn.Module):
    """linear_2(silu(linear_1(x))) in float32 throughout."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "rows channels"]) -> Float[Array, "rows D"]:
        return Projection((self.width,), name="linear_2")(
            nn.silu(Projection((self.width,), name="linear_1")(x))
        )


class TextMLP(nn.Module):
    """linear_2(gelu_tanh(linear_1(x)))."""

    width: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S D"]:
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = nn.gelu(Projection((self.width,), name="linear_1", **dtypes)(x), approximate=True)
        return Projection((self.width,), name="linear_2", **dtypes)(hidden)


class OutputTable(nn.Module):
    """Learned shift and scale of the output head."""

    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "2 D"]:
        return self.param(
            "scale_shift_table",
            nn.initializers.normal(self.width**-0.5),
            (2, self.width),
            jnp.float32,
        )


def layer_params(stack: Params, layer: int | Int[Array, ""]) -> Params:
    """The parameters of one block, on the device, where they are copied to from a stack in host
    memory.
    """

    def take(leaf):
        return jax.device_put(
            jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), jax.memory.Space.Device
        )

    return jax.tree.map(take, stack)


def sinusoids(
    timesteps: Float[Array, "rows"] | Int[Array, "rows"], channels: int
) -> Float[Array, "rows channels"]:
    """[cos(t f_k), sin(t f_k)] with f_k = exp(-ln(10000) k / (channels / 2)), in float32."""
    half = channels // 2
    # Exponents in float32, as PyTorch has them: t = 999 magnifies a rounding of the frequency a
    # thousand times.
    exponents = np.float32(-np.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


BLOCK_INPUT = "block input"

REMAT = {
    "blocks": None,
    "products": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT),
    ),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
"""For each value of ``TransformerConfig.remat``, what the backward pass need not compute again."""


def _computed_again(f: Callable[..., Any], remat: str | None) -> Callable[..., Any]:
    """``f``, of which the backward pass finds no more than :data:`REMAT` says; a layer's weights,
    above all, are not kept beside their stack.
    """
    return jax.checkpoint(f, policy=REMAT[remat]) if remat else f


FLOAT32_PARAMS = ("time_embedder", "scale_shift_table", "norm2", "history_key_scale")


def keeps_float32(path: str) -> bool:
    """Whether the parameter at this path, e.g. ``blocks/norm2/scale``, stays float32 in a bfloat16
    model.
    """
    return any(part in FLOAT32_PARAMS for part in path.split("/"))
