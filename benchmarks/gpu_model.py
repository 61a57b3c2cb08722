"""Rows of benchmarks/gpu.py of the model: the transformer in parts, the VAE, chunks, requests."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_rows import Row, Size, array, drawn, queued, random_like

from helios_jax.checkpoint.params import abstract_params
from helios_jax.diffusion.history import frame_indices, start_history
from helios_jax.models.block import Block, Rope, Segments, TextCache
from helios_jax.models.layer_stack import layer_params, separate_layers
from helios_jax.models.tokenizer import train_tokenizer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.vae_layers import kernels_by_output
from helios_jax.sampling.chunk import ChunkPlan, embed_chunk_history
from helios_jax.sampling.decoding import CONVOLUTION, decode
from helios_jax.sampling.loading import separates_blocks, turns_kernels
from helios_jax.sampling.pipeline import HeliosPipeline

PROMPT = (
    "a red ball rolls slowly over green grass while the camera follows it from the left; soft "
    "morning light, long shadows"
)


def model_rows(size: Size) -> Iterator[Row]:
    """The transformer in parts, then the pipeline, of one set of random weights."""
    parts = Parts(size)
    config = size.config
    rows = config.text_encoder.max_sequence_length
    tokens = [size.history + n for n in size.noisy]
    amount = ("TFLOP/s", block_operations(size, size.noisy[-1], rows))
    yield Row(f"block, {tokens[-1]} tokens", parts.block, amount)
    for stage, n in enumerate(size.noisy):
        amount = ("TFLOP/s", forward_operations(size, n, rows))
        make = functools.partial(parts.forward, stage)
        yield Row(f"forward, {tokens[stage]} tokens", make, amount)
    make = functools.partial(parts.forward, len(tokens) - 1, stacked=True)
    yield Row(f"forward of stacked blocks, {tokens[-1]} tokens", make, amount)
    yield Row("vae decode of a chunk", functools.partial(parts.decode, CONVOLUTION))
    other = "frames_as_channels"
    yield Row(f"vae decode of a chunk, {other}", functools.partial(parts.decode, other))
    frames = 1 + config.vae.temporal_factor * (config.sample.latent_frames_per_chunk - 1)
    amount = ("frames/s", frames)
    many = (2 if size.is_toy else 8) * frames
    for steps in ((2, 2, 2), (1, 1, 1)):
        make = functools.partial(parts.video, between_chunks, steps, many)
        yield Row(f"chunk {'-'.join(map(str, steps))}", make, amount)
    make = functools.partial(parts.video, between_chunks, (2, 2, 2), many, quantized=True)
    yield Row("chunk 2-2-2, fp8 weights and activations", make, amount)
    amplified = config.sample.amplify_first_chunk
    first = "first chunk amplified" if amplified else "first chunk as the others"
    length = 2 * frames if size.is_toy else 240
    make = functools.partial(parts.video, whole_request, (2, 2, 2), length)
    name = f"request of {length} frames, 2-2-2, {first}"
    yield Row(name, make, ("frames/s", length))
    make = functools.partial(parts.video, first_frames, (2, 2, 2), frames)
    yield Row(f"first frames, 2-2-2, {first}", make)


class Parts:
    """Parts of a model of random weights, which are drawn when the first part needs them."""

    def __init__(self, size: Size):
        self.size = size
        self.model = HeliosTransformer(size.config.transformer, jnp.bfloat16)
        vae = size.config.vae
        T = size.config.sample.latent_frames_per_chunk
        self.latent_shape = (
            1,
            T,
            size.height // vae.spatial_factor,
            size.width // vae.spatial_factor,
            vae.z_dim,
        )
        self.indices = frame_indices(size.config.sample.history_sizes, T)

    @functools.cached_property
    def pipeline(self) -> HeliosPipeline:
        config = self.size.config
        abstract = abstract_params(config, jnp.bfloat16, jnp.bfloat16)
        if separates_blocks():
            blocks = separate_layers(abstract["transformer"]["blocks"])
            abstract["transformer"] = {**abstract["transformer"], "blocks": blocks}
        if turns_kernels():
            abstract["vae"] = kernels_by_output(abstract["vae"])
        params = random_like(abstract)
        words = [
            "a red ball rolls over green grass",
            "the quick brown fox jumps over the lazy dog",
            "0123456789 .,;:!?'()-",
        ]
        tokenizer = train_tokenizer(words, config.text_encoder.vocab_size)
        return HeliosPipeline(config, params, tokenizer, dtype=jnp.bfloat16, vae_dtype=jnp.bfloat16)

    @property
    def params(self) -> Any:
        """The transformer's."""
        return self.pipeline.params["transformer"]

    @functools.cached_property
    def text(self) -> TextCache:
        return self.pipeline.encode_prompts([PROMPT])

    @functools.cached_property
    def history(self) -> Any:
        """The history before a first chunk, prepared as the sampler does once a chunk."""
        B, T, H, W, C = self.latent_shape
        state = start_history((B, H, W, C), self.size.config.sample.history_sizes)
        prepare = functools.partial(
            embed_chunk_history, frames=T, model=self.model, plan=ChunkPlan((1,), False)
        )
        return jax.jit(prepare)(self.params, state)

    @functools.cached_property
    def time(self) -> Any:
        embed = jax.jit(
            lambda params, time: self.model.apply({"params": params}, time, method="embed_time")
        )
        return embed(self.params, jnp.full((1,), 500.0))

    @functools.cached_property
    def denoise(self) -> Callable[..., Any]:
        def apply(params, latents, time, text, history):
            return self.model.apply(
                {"params": params},
                latents,
                time,
                text,
                history,
                self.indices.noisy,
                method="denoise",
            )

        return jax.jit(apply)

    def block(self) -> Callable[[], float]:
        cfg = self.size.config.transformer
        tokens = self.size.history + self.size.noisy[-1]
        block = Block(cfg, jnp.bfloat16, parent=None)
        angles = array(tokens, cfg.attention_head_dim // 2, dtype=jnp.float32)
        middle = layer_params(self.params["blocks"], cfg.num_layers // 2)
        cache = TextCache(self.text.key[0], self.text.value[0], self.text.bias)
        x, modulation, *angles = random_like(
            (array(1, tokens, cfg.width), array(1, 2, 6, cfg.width), angles, angles)
        )
        run = jax.jit(
            lambda params, x, *rest: block.apply(
                {"params": params}, x, *rest, segments=Segments(self.size.history)
            )
        )
        return queued(run, lambda: [(middle, x, modulation, Rope(*angles), cache)], 10)

    def forward(self, stage: int, stacked: bool = False) -> Callable[[], float]:
        """One forward; with ``stacked``, of weights in one array for all blocks, as a loop."""
        B, T, H, W, C = self.latent_shape
        latents = random_like(
            array(B, T, H // 2 ** (2 - stage), W // 2 ** (2 - stage), C, dtype=jnp.float32)
        )
        params, text = self.params, self.text
        if stacked:
            abstract = abstract_params(self.size.config, jnp.bfloat16, jnp.bfloat16)
            params = random_like(abstract["transformer"])
            text = TextCache(jnp.stack(list(text.key)), jnp.stack(list(text.value)), text.bias)
        return queued(self.denoise, lambda: [(params, latents, self.time, text, self.history)], 2)

    def decode(self, form: str) -> Callable[[], float]:
        """The VAE with its convolutions computed in this form."""
        vae = self.pipeline.vae.clone(convolution=form)
        run = functools.partial(decode, vae, self.pipeline.params["vae"])
        draw = functools.partial(drawn, (array(*self.latent_shape, dtype=jnp.float32),))
        return queued(lambda latents: run(latents, "uint8"), draw, 2)

    def video(
        self,
        timed: Callable[..., Any],
        steps: tuple[int, ...],
        num_frames: int,
        quantized: bool = False,
    ) -> Callable[[], float | list[float]]:
        """A function that returns what ``timed`` measures of a video as it streams."""
        pipeline = self.pipeline
        if quantized:
            pipeline = pipeline.quantized("fp8", round_activations=True)
        stream = functools.partial(
            pipeline.stream, PROMPT, steps=steps, guidance_scale=1.0, lookahead=1
        )
        return functools.partial(timed, functools.partial(stream, num_frames=num_frames))


def between_chunks(stream: Callable[[], Iterator[np.ndarray]]) -> list[float]:
    """Seconds from each chunk to the next."""
    arrived = [time.perf_counter() for _ in stream()]
    return list(np.diff(arrived))


def whole_request(stream: Callable[[], Iterator[np.ndarray]]) -> float:
    began = time.perf_counter()
    for _ in stream():
        pass
    return time.perf_counter() - began


def first_frames(stream: Callable[[], Iterator[np.ndarray]]) -> float:
    began = time.perf_counter()
    next(stream())
    return time.perf_counter() - began


def block_operations(size: Size, n: int, S: int) -> float:
    """Operations of a block as PyTorch computes it; a multiplication and an addition are two.

    It has ``n`` noisy tokens and all ``S`` text rows, and nothing is prepared.
    """
    cfg = size.config.transformer
    D = cfg.width
    F = cfg.ffn_dim
    N = size.history + n
    return (
        8.0 * N * D**2 + 4 * N**2 * D + 4 * N * D * F + 4 * n * D**2 + 4 * n * S * D + 4 * S * D**2
    )


def forward_operations(size: Size, n: int, S: int) -> float:
    """Operations of a forward: all blocks, patches, text and time embeddings, output head."""
    cfg = size.config.transformer
    D = cfg.width
    cells = int(cfg.in_channels * np.prod(cfg.patch_size))
    outside = (
        4 * n * cells * D
        + 2 * size.history * cells * D
        + 2 * S * (cfg.text_dim * D + D**2)
        + 4 * (cfg.freq_dim * D + 7 * D**2)
    )
    return cfg.num_layers * block_operations(size, n, S) + outside
