"""From prompts to video: the user's API."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from helios_jax import checkpoint, nano
from helios_jax.checkpoint.params import (
    abstract_params,
    blocks_in_host_memory,
    dtype_rules,
    host_memory,
    random_params,
)
from helios_jax.config import HeliosConfig
from helios_jax.diffusion.drift import DriftControl, start_drift
from helios_jax.diffusion.history import HistoryState, release_anchor
from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise
from helios_jax.diffusion.solvers import needs_noise
from helios_jax.kernels.dispatch import target
from helios_jax.memory.report import Plan
from helios_jax.memory.sampling import plan_request
from helios_jax.models.block import TextCache
from helios_jax.models.quantization import Quantization, quantize_transformer
from helios_jax.models.tokenizer import Tokenizer, clean_prompt, toy_tokenizer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.models.vae import VAE, decode_latents
from helios_jax.sampling.chunk import sample_chunk, sample_chunk_by_stages
from helios_jax.sampling.conditioning import (
    NOISE,
    ConditioningNoise,
    draw_conditioning_noise,
    make_conditioning,
    start_state,
)
from helios_jax.sampling.loop import ChunkRecord, Sent, run_chunks
from helios_jax.sampling.prompts import PromptSchedule, make_schedule
from helios_jax.sampling.request import Request, RequestError, frames_per_chunk, make_request
from helios_jax.sampling.state import VideoState, check_config
from helios_jax.sampling.text import Features, PromptTexts
from helios_jax.sampling.timing import Stopwatch
from helios_jax.types import Array, DTypeLike, Float, Int, Params

MAX_SEED = 2**31
VAE_PIECE = 3
"""Latent frames decoded at a time where memory is an accelerator's: enough to keep it busy, at 40 %
of the memory of a whole chunk.
"""

Output = Literal["uint8", "float32", "latent"]
Prompt = str | Sequence[str] | PromptSchedule


class HeliosPipeline:
    """Text, image or video to video.

    Example::

        pipeline = HeliosPipeline.from_checkpoint("checkpoints/helios-distilled")
        frames = pipeline.generate("a red ball rolls over grass", num_frames=99)

    Attributes:
      config: of the checkpoint.
      params: trees of the transformer, the VAE and, until it is released, the text encoder.
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
        self._encoded: dict[str, Features] = {}
        self.transformer = HeliosTransformer(config.transformer, dtype)
        self.text_encoder = UMT5Encoder(config.text_encoder, dtype)
        self.vae = VAE(config.vae, vae_dtype)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike = nano.CHECKPOINT,
        *,
        dtype: DTypeLike | None = None,
        vae_dtype: DTypeLike | None = None,
        verify: bool = True,
        prompts: Sequence[str] | None = None,
        stream_blocks: bool = False,
    ) -> "HeliosPipeline":
        """Load a checkpoint directory, as ``convert_torch_weights.py`` writes it.

        Args:
          path: the directory; by default helios-nano's, which ships with the package.
          dtype: of weights and activations; bfloat16 by default where there is an accelerator,
            float32 on a CPU.
          vae_dtype: the VAE's; likewise.
          verify: compare every file with its digest.
          prompts: the only ones that will be asked for, negative ones included: the text encoder
            goes before the transformer comes. None keeps it.
          stream_blocks: as :meth:`stream_blocks` does, without the blocks ever being on the device
            together.

        Raises:
          CheckpointError: if anything is missing, altered, or of another format.
        """
        dtype = default_dtype() if dtype is None else dtype
        vae_dtype = default_dtype() if vae_dtype is None else vae_dtype
        config = checkpoint.load_config(path)
        rules = dtype_rules(dtype, vae_dtype)
        tokenizer = checkpoint.load_tokenizer(path, verify)
        size = sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(abstract_params(config, dtype, vae_dtype))
        )
        with tqdm(
            total=size, unit="B", unit_scale=True, desc="loading", disable=None, leave=False
        ) as bar:

            def load(component, sharding=None):
                return checkpoint.load_params(
                    path, component, rules[component], verify, sharding, bar.update
                )

            place = lambda leaf: (
                host_memory() if stream_blocks and leaf.startswith("blocks/") else None
            )
            pipeline = cls(
                config,
                {"text_encoder": load("text_encoder")},
                tokenizer,
                dtype=dtype,
                vae_dtype=vae_dtype,
            )
            if prompts is not None:
                pipeline.release_text_encoder(prompts)
            pipeline.params = {
                "transformer": load("transformer", place),
                "vae": load("vae"),
                **pipeline.params,
            }
        return pipeline

    @classmethod
    def for_decoding(
        cls, path: str | os.PathLike, *, vae_dtype: DTypeLike | None = None, verify: bool = True
    ) -> "HeliosPipeline":
        """A pipeline that can decode latents and nothing else: only the VAE of the checkpoint is
        loaded. Arguments as above.
        """
        config, vae_dtype = (
            checkpoint.load_config(path),
            default_dtype() if vae_dtype is None else vae_dtype,
        )
        vae = checkpoint.load_params(
            path, "vae", dtype_rules(vae_dtype, vae_dtype)["vae"], verify=verify
        )
        return cls(
            config,
            {"vae": vae},
            checkpoint.load_tokenizer(path, verify),
            vae_dtype=vae_dtype,
        )

    @classmethod
    def random(
        cls, config: HeliosConfig, seed: int = 0, *, dtype: DTypeLike | None = None
    ) -> "HeliosPipeline":
        """Random weights, and a tokenizer trained on a few words: everything runs, and what comes
        out is noise.

        Args:
          config: geometry, schedule and defaults.
          seed: of the weights.
          dtype: of weights and activations, save the VAE's; bfloat16 by default where there is an
            accelerator, float32 on a CPU, as the VAE's are.
        """
        dtype, vae_dtype = default_dtype() if dtype is None else dtype, default_dtype()
        params = random_params(config, seed, dtype, vae_dtype)
        return cls(
            config,
            params,
            toy_tokenizer(config.text_encoder.vocab_size),
            dtype=dtype,
            vae_dtype=vae_dtype,
        )

    @staticmethod
    def plan(
        config: HeliosConfig,
        target: str = "h100",
        *,
        dtype: DTypeLike = jnp.bfloat16,
        vae_dtype: DTypeLike = jnp.bfloat16,
        text_encoder: bool = True,
        stream_blocks: bool = False,
        quantization: Quantization | None = None,
        **options: Any,
    ) -> Plan:
        """Memory that a request takes on a GPU that need not be there; ``print`` it. No weights are
        needed.

        Args:
          config: of the checkpoint.
          target: "h100" or "h200".
          dtype, vae_dtype: of weights and activations.
          text_encoder: whether it stays beside the others, or has been there before them.
          stream_blocks: whether the transformer's blocks stay in host memory.
          quantization: of the transformer's large weights; they are loaded before they are rounded.
          **options: batch, num_frames, height, width, steps, guidance_scale, as in
            :func:`~helios_jax.sampling.request.make_request`.
        """
        kept = dict(
            text_encoder=text_encoder, stream_blocks=stream_blocks, quantization=quantization
        )
        return plan_request(
            config, make_request(config, **options), target, dtype, vae_dtype, **kept
        )

    def warmup(
        self, prompts: Sequence[str], negative_prompt: str | None = None, **options: Any
    ) -> None:
        """Compile, and run once, every program that requests like these need, so that they begin at
        full speed.

        It takes the time of the chunks it makes and drops: the first one, and one more where the
          first has steps of its own.

        Args:
          prompts: programs differ with the room a prompt needs (64, 128, 256 or 512 tokens); one
            prompt of each kind among these is run.
          negative_prompt, **options: of :meth:`stream`.
        """
        of_each_size = {self.encode_prompt(prompt)[0].shape[1]: prompt for prompt in prompts}
        for prompt in of_each_size.values():
            for _ in itertools.islice(
                self.stream(prompt, negative_prompt, **options),
                2 if self.config.sample.amplify_first_chunk else 1,
            ):
                pass

    def configure(self, **runtime: Any) -> None:
        """Change how the transformer is computed, by fields of
        :data:`~helios_jax.config.RUNTIME_FIELDS`: ``configure(kernels="xla")``.
        """
        transformer = dataclasses.replace(self.config.transformer, **runtime)
        self.config = dataclasses.replace(self.config, transformer=transformer)
        self.transformer = HeliosTransformer(transformer, self.transformer.dtype)

    def quantize(self, quantization: Quantization, *, round_activations: bool = False) -> None:
        """Hold the transformer's large weights in eight bits; see
        :mod:`~helios_jax.models.quantization`.
        """
        self.configure(round_activations=round_activations)
        self.params = {
            **self.params,
            "transformer": quantize_transformer(self.params["transformer"], quantization),
        }

    def release_text_encoder(self, prompts: Sequence[str]) -> None:
        """Encode prompts and let the text encoder go, 10.6 GiB of the 14B model: from now on these
        are the prompts, negative ones included.
        """
        self._encoded |= {clean_prompt(prompt): self.encode_prompt(prompt) for prompt in prompts}
        self.params = {
            component: params
            for component, params in self.params.items()
            if component != "text_encoder"
        }

    def stream_blocks(self) -> None:
        """Keep the transformer's blocks, 26.2 of the 14B model's 26.7 GiB, in host memory; each
        step copies them to the device layer by layer.
        """
        self.params = {
            **self.params,
            "transformer": blocks_in_host_memory(self.params["transformer"]),
        }

    def generate(
        self,
        prompt: Prompt,
        negative_prompt: str | None = None,
        *,
        num_frames: int | None = None,
        output: Output = "uint8",
        **options: Any,
    ) -> np.ndarray:
        """Make whole videos.

        Args:
          prompt, negative_prompt, num_frames, output: see :meth:`stream`.
          **options: of :meth:`stream`.

        Returns:
          Frames [B, num_frames, height, width, 3], exactly as many as were asked for, or the
          latents of all chunks [B, 9 chunks, H, W, C].
        """
        video = np.concatenate(
            list(
                self.stream(
                    prompt, negative_prompt, num_frames=num_frames, output=output, **options
                )
            ),
            axis=1,
        )
        return video if output == "latent" else video[:, : self._num_frames(prompt, num_frames)]

    def stream(
        self,
        prompt: Prompt,
        negative_prompt: str | None = None,
        *,
        seed: int = 0,
        batch: int | None = None,
        num_frames: int | None = None,
        noise: Callable[[int], ChunkNoise] | Sequence[ChunkNoise] | None = None,
        drift: DriftControl | None = None,
        start: VideoState | None = None,
        image: Any = None,
        video: Any = None,
        image_noise: Sequence[float] = NOISE,
        video_noise: Sequence[float] = NOISE,
        image_history: str = "still",
        conditioning_noise: ConditioningNoise | None = None,
        output: Output = "uint8",
        blend: int = 0,
        lookahead: int = 0,
        on_chunk: Callable[[ChunkRecord], None] | None = None,
        stopwatch: Stopwatch | None = None,
        **options: Any,
    ) -> Generator[np.ndarray, Sent, None]:
        """Yield the video chunk by chunk, each as soon as it is decoded; memory does not grow with
        the number of chunks.

        Between chunks a new prompt may be sent, ``chunk = stream.send("the ball turns blue")``: it
        governs the chunk that ``send`` returns, or with ``lookahead`` the one after that, which is
        under way by then. Sent when all chunks are under way, it has no effect.

        Args:
          prompt: one prompt, or one for each video of the batch, or a schedule of prompts.
          negative_prompt: by default the configuration's.
          seed: video b of the batch is that of ``seed + b`` made alone.
          batch: number of videos of a single prompt.
          num_frames: of the whole video; by default a schedule's, or the configuration's.
          noise: the noise of each chunk, by index, in place of that drawn from ``seed``.
          drift: corrupts the history of chunks that drift; by default nothing is looked at.
          start: where the video stands; :meth:`resume` takes all other arguments from it.
          image: [B, height, width, 3] uint8 that the video starts from, one for each video or one
            for all. What the stream yields begins after it.
          video: [B, F, height, width, 3] uint8 that the video goes on from, at least one chunk of
            frames. What the stream yields begins after it.
          image_noise: least and largest strength of the noise added to the image, or to the first
            frame of ``video``.
          video_noise: the same for the frames that the first chunk continues. More noise is more
            motion, and less likeness.
          image_history: "still", "window" or "anchor": see
            :mod:`~helios_jax.sampling.conditioning`, also for what to do about a static start.
          conditioning_noise: the draws for ``image`` or ``video``, in place of those from ``seed``.
          output: "uint8" frames (truncated, as the reference writes files), "float32" frames in [0,
            1], or "latent".
          blend: over so many chunks a prompt that is sent takes over from the one before it; 0 is
            at once.
          lookahead: 1 begins each chunk before the one before it is copied to the host and yielded,
            so that the device does not wait for whoever writes or shows the frames; two chunks of
            frames are then held.
          on_chunk: is called with each chunk, its latents, and a state from which the video can be
            resumed, before the chunk is yielded.
          stopwatch: is told where the time goes; while it runs, a chunk is one program a stage
            rather than one in all, and nothing overlaps.
          **options: height, width, steps, guidance_scale, skip_first_chunk, as in
            :func:`~helios_jax.sampling.request.make_request`.

        Yields:
          The whole chunk: frames [B, 33, height, width, 3] or latents [B, 9, H, W, C].

        Raises:
          RequestError: if the request cannot be served; by the call, before anything is computed.
            An empty prompt that is sent raises it too, and ends the stream.
        """
        schedule = make_schedule(prompt, batch)
        if output not in get_args(Output):
            raise RequestError(f"output={output!r} must be one of {', '.join(get_args(Output))}")
        if lookahead not in (0, 1) or blend < 0:
            raise RequestError(
                f"lookahead={lookahead} must be 0 or 1, and blend={blend} at least 0"
            )
        batch = len(schedule.changes[0].prompts)
        request = make_request(
            self.config, batch=batch, num_frames=self._num_frames(prompt, num_frames), **options
        )
        if not 0 <= seed <= MAX_SEED - batch:
            raise RequestError(
                f"seed={seed} must lie in 0..{MAX_SEED - batch} for a batch of {batch}"
            )
        if isinstance(noise, Sequence) and len(noise) < request.chunks:
            raise RequestError(
                f"noise is given for {len(noise)} chunks, but the video has {request.chunks}"
            )
        sources = dict(
            image=image,
            video=video,
            image_noise=image_noise,
            video_noise=video_noise,
            image_history=image_history,
        )
        conditioning = make_conditioning(request, **sources)
        if start is not None:
            check_config(start, self.config)
            if start.chunk >= request.chunks:
                raise RequestError(
                    f"all {start.chunk} chunks of num_frames={request.num_frames} are made: ask for more frames to go on"
                )
        negative_prompt = (
            self.config.sample.negative_prompt if negative_prompt is None else negative_prompt
        )
        fixed = dict(
            negative_prompt=negative_prompt,
            seed=seed,
            num_frames=request.num_frames,
            height=request.height,
            width=request.width,
        )
        fixed |= dict(
            steps=request.plan.steps,
            guidance_scale=request.guidance_scale,
            skip_first_chunk=request.skip_first_chunk,
        )
        fixed |= dict(drift=drift and dataclasses.asdict(drift))
        stopwatch = stopwatch or Stopwatch()

        def run():
            keys = jax.vmap(jax.random.key)(jnp.arange(batch) + seed)
            statistics = drift and start_drift(batch, request.latent_shape[-1])
            begin = functools.partial(
                self._start_history, request, conditioning, conditioning_noise, keys, stopwatch
            )
            state = start or VideoState(0, begin(), schedule, 0, statistics, fixed, self.config)
            texts = self._texts(
                (negative_prompt,) * batch if request.plan.guided else (), state.text_rows
            )
            sample = functools.partial(
                self._sample,
                request,
                noise or functools.partial(self._draw_noise, request, keys),
                stopwatch,
            )
            decode = (
                (lambda latents: latents)
                if output == "latent"
                else functools.partial(self.decode, output=output)
            )
            hooks = dict(
                drift=drift,
                blend=blend,
                lookahead=lookahead,
                on_chunk=on_chunk,
                stopwatch=stopwatch,
            )
            yield from run_chunks(
                state._replace(options=fixed), request.chunks, keys, texts, sample, decode, **hooks
            )

        return run()

    def resume(
        self, state: VideoState, *, num_frames: int | None = None, **options: Any
    ) -> Generator[np.ndarray, Sent, None]:
        """Go on with a video: yield the chunks that would have followed, the same to the last bit
        on the same machine.

        Args:
          state: of a chunk, from ``on_chunk`` or :func:`~helios_jax.sampling.state.load_state`.
            Prompts, seed, size, steps, guidance and control of drift are those it was made with.
          num_frames: of the whole video, those made before included; by default as many as were
            asked for then.
          **options: noise, output, blend, lookahead, on_chunk and stopwatch, as in :meth:`stream`.

        Raises:
          RequestError: if the state is that of another model or sampler, or the video is complete.
        """
        fixed = dict(state.options)
        drift = None if fixed["drift"] is None else DriftControl(**fixed.pop("drift"))
        fixed |= dict(
            drift=drift, num_frames=fixed["num_frames"] if num_frames is None else num_frames
        )
        return self.stream(state.prompts, start=state, **fixed, **options)

    def decode(self, latents: Float[Array, "B T H W C"], output: Output = "uint8") -> Array:
        """The frames of one chunk of latents in model space, on the device; each chunk is a clip of
        its own.
        """
        return _decode(self.vae, self.params["vae"], latents, output)

    def decode_video(
        self, latents: Float[np.ndarray, "B T H W C"], output: Output = "uint8"
    ) -> Iterator[np.ndarray]:
        """Yield the frames of saved latents chunk by chunk, the same that :meth:`stream` yielded.

        Raises:
          RequestError: if they are not whole chunks of this model's latents.
        """
        T, C = self.config.sample.latent_frames_per_chunk, self.config.vae.z_dim
        if latents.shape[1] % T or latents.shape[4] != C:
            raise RequestError(
                f"latents of shape {list(latents.shape)} are not whole chunks: [B, a multiple of {T}, H, W, {C}] is needed"
            )
        return (
            np.asarray(self.decode(jnp.asarray(latents[:, i : i + T]), output))
            for i in range(0, latents.shape[1], T)
        )

    def encode_prompt(self, prompt: str) -> Features:
        """Text features of one prompt, cleaned and tokenized, and its number of tokens."""
        text = clean_prompt(prompt)
        if text in self._encoded:
            return self._encoded[text]
        if "text_encoder" not in self.params:
            raise RequestError(
                f"the text encoder was released, and {prompt!r} is not among the prompts that were encoded before"
            )
        ids, lengths = self.tokenizer([text], self.config.text_encoder.max_sequence_length)
        return encode_text(self.text_encoder, self.params["text_encoder"], ids, lengths)

    def encode_prompts(self, prompts: Sequence[str], negatives: Sequence[str] = ()) -> TextCache:
        """Cross-attention keys and values of prompts, then of negative ones, which may be empty."""
        return self._texts(tuple(negatives))(make_schedule(prompts, None), 0)

    def _num_frames(self, prompt: Prompt, num_frames: int | None) -> int | None:
        """Frames that are asked for."""
        if num_frames is None and isinstance(prompt, PromptSchedule) and prompt.chunks:
            return prompt.chunks * frames_per_chunk(self.config)
        return self.config.sample.num_frames if num_frames is None else num_frames

    def _start_history(self, request, conditioning, noise, keys, stopwatch) -> HistoryState:
        """The history before the first chunk."""
        draw = lambda: (
            noise or draw_conditioning_noise(keys, len(conditioning.pieces), request.latent_shape)
        )
        with stopwatch("vae") as done:
            return done(start_state(self.vae, self.params["vae"], request, conditioning, draw))

    def _texts(self, negatives: tuple[str, ...] = (), rows: int = 0) -> PromptTexts:
        total = self.config.text_encoder.max_sequence_length
        embed = functools.partial(_embed_text, self.transformer, total, self.params["transformer"])
        return PromptTexts(self.encode_prompt, embed, negatives, rows)

    def _draw_noise(self, request: Request, keys: Array, chunk: int) -> ChunkNoise:
        scheduler = self.config.scheduler
        plan = request.plan if chunk else request.first_plan
        steps = plan.steps if needs_noise(scheduler.solver) else ()
        return _draw(
            keys, jnp.int32(chunk), request.latent_shape, scheduler.stages, scheduler.gamma, steps
        )

    def _sample(
        self, request, noise, stopwatch, chunk, history, text
    ) -> tuple[HistoryState, Array]:
        """Make one chunk."""
        if request.skip_first_chunk and chunk == 1:
            history = release_anchor(history)
        sample = (
            functools.partial(sample_chunk_by_stages, timed=stopwatch)
            if stopwatch.running
            else sample_chunk
        )
        return sample(
            self.params["transformer"],
            history,
            noise(chunk) if callable(noise) else noise[chunk],
            text,
            jnp.float32(request.guidance_scale),
            model=self.transformer,
            scheduler=self.config.scheduler,
            plan=request.plan if chunk else request.first_plan,
        )


def default_dtype() -> DTypeLike:
    """bfloat16 where there is an accelerator, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


_draw = jax.jit(draw_chunk_noise, static_argnums=(2, 3, 4, 5))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed_text(
    model: HeliosTransformer,
    total: int,
    params: Params,
    features: Float[Array, "B S E"],
    lengths: Int[Array, "B"],
) -> TextCache:
    return model.apply({"params": params}, features, lengths, total, method="embed_text")


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(vae: VAE, params: Params, latents: Float[Array, "B T H W C"], output: Output) -> Array:
    """Frames of a chunk, in [0, 1] or in 0..255."""
    piece = None if target().platform == "cpu" else VAE_PIECE
    frames = jnp.clip(
        decode_latents(vae, params, latents, piece).astype(jnp.float32) / 2 + 0.5, 0, 1
    )
    return (frames * 255).astype(jnp.uint8) if output == "uint8" else frames
