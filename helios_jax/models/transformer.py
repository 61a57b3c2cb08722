"""The Helios transformer: the velocity of a noisy chunk of latents, given the frames before it and
a text.

The forward pass is cut where its inputs change, so that a sampler computes each part as seldom as
it can: ``embed_text`` once a prompt, ``embed_time`` once a schedule, ``embed_history`` once a
chunk, ``denoise`` once a step. ``__call__`` is the four in a row.
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from helios_jax.config import TransformerConfig
from helios_jax.kernels.attention import check_implementation, padding_bias
from helios_jax.kernels.dispatch import target
from helios_jax.kernels.residual_norm import modulated_layer_norm
from helios_jax.models.block import Block, Rope, Segments, TextCache, modulation_rows
from helios_jax.models.embeddings import OutputTable, TextMLP, TimeMLP, sinusoids
from helios_jax.models.layer_stack import (
    BLOCK_INPUT,
    is_in_host_memory,
    is_separate,
    layer_params,
    rematerialized,
)
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

ROW_MULTIPLE = {"cuda": 8}
"""For a platform, the number of which the noisy tokens are made a multiple, once, by tokens that
nobody attends to. XLA pads the rows of bfloat16 products for cuBLAS, and would do so around every
one of them: at the first stage of the 14B model, 540 tokens, 726 launches and 9 ms a chunk.
"""


class TimeEmbedding(NamedTuple):
    """Embedded timesteps, a row each.

    Attributes:
      temb: for the output head.
      modulation: for the blocks, six rows a timestep.
    """

    temb: Float[Array, "*rows D"]
    modulation: Float[Array, "*rows 6 D"]


class HistoryTokens(NamedTuple):
    """History as the blocks see it, constant over the steps of a chunk.

    Attributes:
      tokens: of the long, mid and short history, in this order.
      first_qkv: queries, keys and values of these tokens in the first block; None where they depend
        on the step.
      rope: their rotations.
      modulation: the six rows of timestep 0, as often as their product had to have them, or None
        where history shares the noisy tokens' rows.
    """

    tokens: Float[Array, "B h D"]
    first_qkv: Float[Array, "B h 3 K d"] | None
    rope: Rope
    modulation: Float[Array, "_ 6 D"] | None


class HeliosTransformer(nn.Module):
    """Helios (HeliosTransformer3DModel in Diffusers), channels last.

    Attributes:
      config: geometry.
      dtype: of activations and matrix products; norms, modulation, time embedding and residual sums
        are always float32.
      param_dtype: of parameters made by ``init``; those that :func:`keeps_float32` names are always
        float32.

    Raises:
      UnsupportedError: if there is no implementation ``config.attention``.
    """

    config: TransformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check_implementation(self.config.attention)
        super().__post_init__()

    def setup(self):
        cfg = self.config
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        pt, ph, pw = cfg.patch_size
        self.patch_embedding = PatchEmbedding(cfg.width, (pt, ph, pw), **dtypes)
        self.patch_short = PatchEmbedding(cfg.width, (pt, ph, pw), **dtypes)
        self.patch_mid = PatchEmbedding(cfg.width, (2 * pt, 2 * ph, 2 * pw), **dtypes)
        self.patch_long = PatchEmbedding(cfg.width, (4 * pt, 4 * ph, 4 * pw), **dtypes)
        self.time_embedder = TimeMLP(cfg.width)
        self.time_proj = Projection((6, cfg.width), **dtypes)
        self.text_embedder = TextMLP(cfg.width, **dtypes)
        self.norm_out = OutputTable(cfg.width)
        self.proj_out = Projection((int(np.prod(cfg.patch_size)) * cfg.out_channels,), **dtypes)
        if self.has_variable("params", "blocks"):
            # `param` would trace their initialisation to compare shapes, which each block does for
            # itself.
            self.blocks = self.get_variable("params", "blocks")
        else:
            self.blocks = self.param("blocks", self._init_blocks)

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
          latents: noisy latents of any pyramid stage.
          timestep: global time in [0, 1000).
          text: text embeddings, zero past each prompt's length, as the text encoder gives them.
          history: clean frames before the chunk; None runs the model as a plain text-to-video
            model.
          frame_indices: positions in time; needed with ``history``. Without, frames count from 0.

        Raises:
          ValueError: if there is a ``history`` without ``frame_indices``.
        """
        if history is not None and frame_indices is None:
            raise ValueError("history needs frame_indices: where in time its frames stand")
        indices = frame_indices or FrameIndices(tuple(range(latents.shape[1])), (), (), ())
        time = self.embed_time(timestep)
        cache = self.embed_text(text)
        tokens = None if history is None else self.embed_history(history, indices)
        velocity, _ = self._denoise(latents, time, cache, tokens, indices.noisy, ())
        return velocity

    def embed_time(self, timesteps: Float[Array, "rows"] | Int[Array, "rows"]) -> TimeEmbedding:
        """Embeddings of any number of timesteps.

        Sinusoids and an MLP in float32 give ``temb``; SiLU and a projection of it ``modulation``.
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
        mask. Given ``lengths``, the first few of them stand for all ``total - length``, by logit
        biases.

        Args:
          text: text embeddings, zero past each prompt's length; with ``lengths``, ``total`` rows or
            fewer, but more than the longest prompt has.
          lengths: real tokens of each prompt.
          total: rows of the full embedding; needed with ``lengths``.

        Raises:
          ValueError: if there are ``lengths`` without ``total``.
        """
        bias = None
        if lengths is not None:
            if total is None:
                raise ValueError("lengths need total: the rows of the full text embedding")
            if text.shape[1] < total:
                bias = padding_bias(lengths, text.shape[1], total)
        embedded = self.text_embedder(text)
        block = Block(self.config, self.dtype, self.param_dtype, parent=None)
        stack = self.blocks

        def keys_and_values(embedded, layer):
            params = {"params": layer_params(stack, layer)}
            return block.apply(params, embedded, method="embed_text")

        if is_separate(stack):
            pairs = [keys_and_values(embedded, layer) for layer in range(self.config.num_layers)]
            key, value = zip(*pairs)
            return TextCache(key, value, bias)

        run = rematerialized(keys_and_values, self.config.remat)

        def step(carry, layer):
            return carry, run(embedded, layer)

        _, (key, value) = jax.lax.scan(step, None, jnp.arange(self.config.num_layers))
        return TextCache(key, value, bias)

    def embed_history(self, history: History, indices: FrameIndices) -> HistoryTokens:
        """Tokens, rotations and first-block projections of the frames before a chunk."""
        cfg = self.config
        _, ph, pw = cfg.patch_size
        rows = history.short.shape[2] // ph
        columns = history.short.shape[3] // pw
        tokens = [
            self.patch_long(history.long),
            self.patch_mid(history.mid),
            self.patch_short(history.short),
        ]
        tokens = jnp.concatenate(tokens, axis=1)
        rope = _joined(
            self._rope(frames, rows, columns, pool)
            for frames, pool in ((indices.long, 4), (indices.mid, 2), (indices.short, 1))
        )
        if not cfg.zero_history_timestep:
            return HistoryTokens(tokens, None, rope, None)
        # XLA would add the product of a single row to a copy of its bias.
        zeros = jnp.zeros((ROW_MULTIPLE.get(target().platform, 1),), jnp.float32)
        modulation = self.embed_time(zeros).modulation
        block = Block(cfg, self.dtype, self.param_dtype, parent=None)
        params = {"params": layer_params(self.blocks, 0)}
        rows_of_both = jnp.broadcast_to(modulation[:1, None], (1, 2, *modulation.shape[1:]))
        # `apply` returns a pair only if a collection is mutable.
        first_qkv = cast(Array, block.apply(params, tokens, rows_of_both, method="embed_history"))
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
          latents: noisy latents of any pyramid stage.
          time: one row a sample, or one for all.
          text, history: of :meth:`embed_text` and :meth:`embed_history`.
          frames: the noisy frames' positions in time.
          hooks: numbers of blocks, ascending, after which the noisy tokens are returned, too.

        Returns:
          The velocity; with ``hooks``, also the tokens after each of these blocks.

        Raises:
          ValueError: if the latents do not divide into patches.
        """
        velocity, hooked = self._denoise(latents, time, text, history, frames, hooks or ())
        return velocity if hooks is None else (velocity, hooked)

    def _denoise(
        self,
        latents: Float[Array, "B T H W C"],
        time: TimeEmbedding,
        text: TextCache,
        history: HistoryTokens | None,
        frames: tuple[int, ...],
        hooks: tuple[int, ...],
    ) -> tuple[Float[Array, "B T H W C"], list[Float[Array, "B T rows columns D"]]]:
        """Velocity, and the noisy tokens after each hook."""
        cfg = self.config
        B, T, H, W, _ = latents.shape
        pt, ph, pw = cfg.patch_size
        if T % pt or H % ph or W % pw:
            raise ValueError(
                f"latents of {T} x {H} x {W} do not divide into patches of {pt} x {ph} x {pw}"
            )
        noisy = (T // pt) * (H // ph) * (W // pw)
        spare = -noisy % ROW_MULTIPLE.get(target().platform, 1)
        x = self.patch_embedding(latents, spare)
        rope = self._rope(frames, H // ph, W // pw)
        if spare:
            rope = Rope(*(jnp.pad(table, ((0, spare), (0, 0))) for table in rope))
        h = 0
        modulation = [time.modulation, time.modulation]
        if history is not None:
            h = history.tokens.shape[1]
            x = jnp.concatenate([history.tokens, x], axis=1)
            rope = _joined([history.rope, rope])
            if history.modulation is not None:
                modulation[0] = history.modulation[:1]
        modulation = [jnp.broadcast_to(rows, (B, *rows.shape[1:])) for rows in modulation]
        modulation = jnp.stack(modulation, axis=1)
        first_qkv = None if history is None else history.first_qkv
        segments = Segments(h, spare)
        run = self._run_separate_blocks if is_separate(self.blocks) else self._run_blocks
        x, hooked = run(x, modulation, rope, text, first_qkv, hooks, segments)

        table = self.norm_out()[None] + time.temb.astype(jnp.float32)[:, None]
        shift, scale = (jnp.broadcast_to(table[:, None, row], (B, 2, cfg.width)) for row in (0, 1))
        fused = dict(eps=cfg.eps, implementation=cfg.kernels)
        x = self.proj_out(modulated_layer_norm(x, shift, scale, history=0, **fused))[:, :noisy]
        grid = dict(t=T // pt, h=H // ph, w=W // pw)
        patch = dict(pt=pt, ph=ph, pw=pw)
        unpatched = "b (t h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c"
        velocity = rearrange(x, unpatched, **grid, **patch)
        to_grid = "b (t h w) d -> b t h w d"
        return velocity, [rearrange(x[:, :noisy], to_grid, **grid) for x in hooked]

    def _rope(self, frames: tuple[int, ...], rows: int, columns: int, pool: int = 1) -> Rope:
        """Rotations of one segment's tokens."""
        cfg = self.config
        settings = dict(rope_dim=cfg.rope_dim, theta=cfg.rope_theta, pool=pool)
        return Rope(*rope_table(frames, rows, columns, **settings))

    def _run_blocks(self, x, modulation, rope, text, first_qkv, hooks, segments):
        """All blocks: their output for noisy tokens, and the noisy tokens after each hook.

        The first block is given the projections of its history; the last one spends nothing on
        history. Of blocks in host memory, the next one's parameters are copied while one computes.
        """
        block = Block(self.config, self.dtype, self.param_dtype, parent=None)
        stack = {"params": self.blocks, "key": text.key, "value": text.value}
        # A backward pass would keep every layer that the loop hands on.
        copies_ahead = is_in_host_memory(self.blocks) and self.config.remat is None

        def copy(layer):
            return layer_params(stack, layer) if copies_ahead else None

        def apply(x, layer, own, history_qkv=None, noisy_only=False):
            def run(x, layer):
                x = checkpoint_name(x, BLOCK_INPUT)
                known = own or layer_params(stack, layer)
                cache = TextCache(known["key"], known["value"], text.bias)
                arguments = (x, modulation, rope, cache)
                own_segments = segments._replace(noisy_only=noisy_only)
                return block.apply(
                    {"params": known["params"]},
                    *arguments,
                    segments=own_segments,
                    history_qkv=history_qkv,
                )

            return rematerialized(run, self.config.remat)(x, layer)

        last = self.config.num_layers - 1
        hooked = []
        own = copy(0)
        if last > 0:
            following = copy(1)
            x = apply(x, 0, own, history_qkv=first_qkv)
            inner = [hook for hook in hooks if hook < last]

            def step(carry, layer):
                x, hooked, own = carry
                following = copy(layer + 1)
                x = apply(x, layer, own)
                noisy = x[:, segments.history :]
                kept = [
                    jnp.where(layer == hook, noisy, tokens) for hook, tokens in zip(inner, hooked)
                ]
                return (x, kept, following), None

            carry = x, [x[:, segments.history :] for _ in inner], following
            if self.config.unroll:
                for layer in range(1, last):
                    carry, _ = step(carry, layer)
            elif copies_ahead:
                # By the loop's own counter XLA knows what it copies, and leaves it to the engine
                # for copies; by an array of numbers a kernel would read the host's memory.
                carry = jax.lax.fori_loop(1, last, lambda layer, x: step(x, layer)[0], carry)
            else:
                # Over indices: scanning over a part of the stack itself would copy that part, 26
                # GiB at 14B. And one scan, whatever is hooked: the backward pass of every scan has
                # a gradient of the whole stack.
                carry, _ = jax.lax.scan(step, carry, jnp.arange(1, last))
            x, hooked, own = carry
        x = apply(x, last, own, noisy_only=True, history_qkv=None if last else first_qkv)
        return x, [*hooked, x] if last in hooks else hooked

    def _run_separate_blocks(self, x, modulation, rope, text, first_qkv, hooks, segments):
        """As :meth:`_run_blocks`, of one array a layer: without a loop, and each block computes the
        next one's first norm.
        """
        block = Block(self.config, self.dtype, self.param_dtype, parent=None)
        stack = {"params": self.blocks, "key": text.key, "value": text.value}
        last = self.config.num_layers - 1
        normed = None
        hooked = []
        for layer in range(self.config.num_layers):
            own = layer_params(stack, layer)
            following = None
            if layer < last:
                after = layer_params(self.blocks, layer + 1)
                shift, scale, *_ = modulation_rows(after["scale_shift_table"], modulation)
                following = (shift, scale)

            def run(x, normed, own=own, following=following, layer=layer):
                cache = TextCache(own["key"], own["value"], text.bias)
                return block.apply(
                    {"params": own["params"]},
                    checkpoint_name(x, BLOCK_INPUT),
                    modulation,
                    rope,
                    cache,
                    segments=segments._replace(noisy_only=layer == last),
                    history_qkv=first_qkv if layer == 0 else None,
                    normed=normed,
                    following=following,
                )

            result = rematerialized(run, self.config.remat)(x, normed)
            x, normed = result if layer < last else (result, None)
            if layer in hooks:
                hooked.append(x if layer == last else x[:, segments.history :])
        return x, hooked

    def _init_blocks(self, key: PRNGKeyArray) -> Params:
        """Parameters of all blocks, stacked on a leading axis."""
        cfg = self.config
        x = jnp.zeros((1, 1, cfg.width), self.dtype)
        modulation = jnp.zeros((1, 2, 6, cfg.width), self.dtype)
        rope = Rope(*jnp.zeros((2, 1, cfg.attention_head_dim // 2), jnp.float32))

        def every_part(block):
            key, value = block.embed_text(x)
            return block(x, modulation, rope, TextCache(key, value, None), segments=Segments(0))

        block = Block(cfg, self.dtype, self.param_dtype, parent=None)
        # One after another: not every kernel has a batching rule.
        return jax.lax.map(
            lambda key: block.init(key, method=every_part)["params"],
            jax.random.split(key, cfg.num_layers),
        )


def _joined(ropes: Iterable[Rope]) -> Rope:
    """The rotations of several segments, one after another."""
    return Rope(*(jnp.concatenate(tables) for tables in zip(*ropes)))


FLOAT32_PARAMS = ("time_embedder", "scale_shift_table", "norm2", "history_key_scale")
"""Parts of the paths of parameters that are float32 in a model of any dtype."""


def keeps_float32(path: str) -> bool:
    """Whether the parameter at this path, e.g. ``blocks/norm2/scale``, stays float32 in a bfloat16
    model.
    """
    return any(part in FLOAT32_PARAMS for part in path.split("/"))
