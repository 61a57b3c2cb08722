"""From prompts to video: the user's API."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from helios_jax import checkpoint
from helios_jax.config import HeliosConfig
from helios_jax.diffusion.history import start_history
from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise
from helios_jax.models.block import TextCache
from helios_jax.models.tokenizer import Tokenizer, clean_prompt, train_tokenizer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.models.vae import VAE, decode_latents
from helios_jax.sampling.chunk import sample_chunk, sample_chunk_by_stages
from helios_jax.sampling.request import Request, RequestError, make_request
from helios_jax.sampling.timing import Stopwatch
from helios_jax.sampling.weights import abstract_params, dtype_rules, random_params
from helios_jax.types import Array, DTypeLike, Float, Int, Params

MAX_SEED = 2**31

Output = Literal["uint8", "float32", "latent"]


class HeliosPipeline:
    """Text to video.

    Example::

        pipeline = HeliosPipeline.from_checkpoint("checkpoints/helios-distilled")
        frames = pipeline.generate("a red ball rolls over grass", num_frames=99)

    Attributes:
      config: of the checkpoint.
      params: trees of the transformer, the VAE and the text encoder.
      tokenizer: of the text encoder.
    """

    def __init__(
        self,
        config: HeliosConfig,
        params: Mapping[str, Params],
        tokenizer: Tokenizer,
        *,
        dtype: DTypeLike = jnp.float32,
        vae_dtype: DTypeLike = jnp.float32,
    ):
        """Wrap parameters that are already on the device.

        Args:
          config: geometry, schedule and defaults.
          params: ``{"transformer": ..., "vae": ..., "text_encoder": ...}``.
          tokenizer: of the text encoder.
          dtype: of the transformer's and the text encoder's activations.
          vae_dtype: of the VAE's.
        """
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.transformer = HeliosTransformer(config.transformer, dtype)
        self.text_encoder = UMT5Encoder(config.text_encoder, dtype)
        self.vae = VAE(config.vae, vae_dtype)

    @classmethod
    def from_checkpoint(
        cls, path: str | os.PathLike, *, dtype: DTypeLike | None = None, vae_dtype: DTypeLike = jnp.float32, verify: bool = True
    ) -> "HeliosPipeline":
        """Load a checkpoint directory, as ``convert_torch_weights.py`` writes it.

        Args:
          path: the directory.
          dtype: of weights and activations; bfloat16 by default where there is an accelerator, float32 on a CPU.
          vae_dtype: the VAE's.
          verify: compare every file with its digest.

        Raises:
          CheckpointError: if anything is missing, altered, or of another format.
        """
        dtype = default_dtype() if dtype is None else dtype
        config = checkpoint.load_config(path)
        rules = dtype_rules(dtype, vae_dtype)
        tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer"))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_params(config, dtype, vae_dtype)))
        with tqdm(total=size, unit="B", unit_scale=True, desc="loading", disable=None, leave=False) as bar:
            params = {
                component: checkpoint.load_params(path, component, rule, verify=verify, progress=bar.update)
                for component, rule in rules.items()
            }
        return cls(config, params, tokenizer, dtype=dtype, vae_dtype=vae_dtype)

    @classmethod
    def random(cls, config: HeliosConfig, seed: int = 0, *, dtype: DTypeLike | None = None) -> "HeliosPipeline":
        """Random weights, and a tokenizer trained on a few words: everything runs, and what comes out is noise.

        Args:
          config: geometry, schedule and defaults.
          seed: of the weights.
          dtype: of weights and activations, save the VAE's, which are float32.
        """
        dtype = default_dtype() if dtype is None else dtype
        params = random_params(config, seed, dtype)
        words = ["a red ball rolls over green grass", "the quick brown fox jumps over the lazy dog", "0123456789 .,;:!?'()-"]
        return cls(config, params, train_tokenizer(words, config.text_encoder.vocab_size), dtype=dtype)

    def generate(
        self, prompt: str | Sequence[str], negative_prompt: str | None = None, *, output: Output = "uint8", **options: Any
    ) -> np.ndarray:
        """Make whole videos.

        Args:
          prompt: one prompt, or one for each video of the batch.
          negative_prompt: what guidance leads away from; unused without guidance.
          output: see :meth:`stream`.
          **options: of :meth:`stream` and :func:`~helios_jax.sampling.request.make_request`.

        Returns:
          Frames [B, num_frames, height, width, 3], exactly as many as were asked for, or the latents of all chunks [B, 9 chunks, H, W, C].
        """
        chunks = list(self.stream(prompt, negative_prompt, output=output, **options))
        video = np.concatenate(chunks, axis=1)
        return video if output == "latent" else video[:, : options.get("num_frames") or self.config.sample.num_frames]

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | None = None,
        *,
        seed: int = 0,
        batch: int | None = None,
        noise: Callable[[int], ChunkNoise] | Sequence[ChunkNoise] | None = None,
        output: Output = "uint8",
        stopwatch: Stopwatch | None = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """Yield the video chunk by chunk, each as soon as it is decoded; memory does not grow with the number of chunks.

        Args:
          prompt: one prompt, or one for each video of the batch.
          negative_prompt: by default the configuration's.
          seed: video b of the batch is that of ``seed + b`` made alone.
          batch: number of videos of a single prompt.
          noise: the noise of each chunk, by index, in place of that drawn from ``seed``.
          output: "uint8" frames (truncated, as the reference writes files), "float32" frames in [0, 1], or "latent".
          stopwatch: is told where the time goes; while it runs, a chunk is one program a stage rather than one in all.
          **options: num_frames, height, width, steps, guidance_scale, as in :func:`~helios_jax.sampling.request.make_request`.

        Yields:
          The whole chunk: frames [B, 33, height, width, 3] or latents [B, 9, H, W, C].

        Raises:
          RequestError: if the request cannot be served; before anything is computed.
        """
        prompts = [prompt] * (1 if batch is None else batch) if isinstance(prompt, str) else list(prompt)
        if batch not in (None, len(prompts)) and not isinstance(prompt, str):
            raise RequestError(f"batch={batch} does not fit {len(prompts)} prompts")
        if not all(text.strip() for text in prompts):
            raise RequestError("the prompt is empty")
        if output not in get_args(Output):
            raise RequestError(f"output={output!r} must be one of {', '.join(get_args(Output))}")
        request = make_request(self.config, batch=len(prompts), **options)
        if not 0 <= seed <= MAX_SEED - request.batch:
            raise RequestError(f"seed={seed} must lie in 0..{MAX_SEED - request.batch} for a batch of {request.batch}")
        if isinstance(noise, Sequence) and len(noise) < request.chunks:
            raise RequestError(f"noise is given for {len(noise)} chunks, but the video has {request.chunks}")
        negative_prompt = self.config.sample.negative_prompt if negative_prompt is None else negative_prompt
        return self._run(request, prompts, negative_prompt, seed, noise, output, stopwatch or Stopwatch())

    def _run(self, request: Request, prompts, negative_prompt, seed, noise, output, stopwatch) -> Iterator[np.ndarray]:
        """The chunk loop."""
        with stopwatch("text") as done:
            negatives = [negative_prompt] * len(prompts) if request.plan.guided else []
            text = done(self.encode_prompts([*prompts, *negatives]))
        if noise is None:
            keys = jax.vmap(jax.random.key)(jnp.arange(request.batch) + seed)
            noise = functools.partial(self._draw_noise, request, keys)
        elif not callable(noise):
            noise = noise.__getitem__
        state = start_history((request.batch, *request.latent_shape[1:]), request.plan.history_sizes)
        sample = functools.partial(sample_chunk_by_stages, timed=stopwatch) if stopwatch.running else sample_chunk
        for chunk in range(request.chunks):
            with stopwatch("transformer") as done:
                state, latents = sample(
                    self.params["transformer"],
                    state,
                    noise(chunk),
                    text,
                    jnp.float32(request.guidance_scale),
                    model=self.transformer,
                    scheduler=self.config.scheduler,
                    plan=request.plan if chunk else request.first_plan,
                )
                done(latents)
            if output == "latent":
                yield np.asarray(latents)
                continue
            with stopwatch("vae") as done:
                frames = done(self.decode(latents, output))
            yield np.asarray(frames)

    def decode(self, latents: Float[Array, "B T H W C"], output: Output = "uint8") -> Array:
        """The frames of one chunk of latents in model space, on the device; each chunk is a clip of its own."""
        return _decode(self.vae, self.params["vae"], latents, output)

    def encode_prompts(self, prompts: Sequence[str]) -> TextCache:
        """Cross-attention keys and values of cleaned, tokenized and encoded prompts."""
        total = self.config.text_encoder.max_sequence_length
        ids, lengths = self.tokenizer([clean_prompt(prompt) for prompt in prompts], total)
        features, lengths = encode_text(self.text_encoder, self.params["text_encoder"], ids, lengths)
        return _embed_text(self.transformer, total, self.params["transformer"], features, lengths)

    def _draw_noise(self, request: Request, keys: Array, chunk: int) -> ChunkNoise:
        scheduler = self.config.scheduler
        return _draw(keys, jnp.int32(chunk), request.latent_shape, scheduler.stages, scheduler.gamma)


def default_dtype() -> DTypeLike:
    """bfloat16 where there is an accelerator, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


_draw = jax.jit(draw_chunk_noise, static_argnums=(2, 3, 4))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed_text(
    model: HeliosTransformer, total: int, params: Params, features: Float[Array, "B S E"], lengths: Int[Array, "B"]
) -> TextCache:
    return model.apply({"params": params}, features, lengths, total, method="embed_text")


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(vae: VAE, params: Params, latents: Float[Array, "B T H W C"], output: Output) -> Array:
    """Frames of a chunk, in [0, 1] or in 0..255."""
    frames = jnp.clip(decode_latents(vae, params, latents).astype(jnp.float32) / 2 + 0.5, 0, 1)
    return (frames * 255).astype(jnp.uint8) if output == "uint8" else frames
