"""The rows of cpu_vs_diffusers.py as helios-jax runs them."""

import functools
from pathlib import Path
from typing import NamedTuple

import cpu_case as case
import jax
import jax.numpy as jnp
import numpy as np
from cpu_case import Row, nothing

from helios_jax import HeliosPipeline
from helios_jax.diffusion.history import frame_indices, start_history
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.models.tokenizer import clean_prompt
from helios_jax.models.umt5 import encode_text
from helios_jax.sampling.chunk import sample_chunk
from helios_jax.sampling.geometry import reference_frames
from helios_jax.sampling.request import make_request
from helios_jax.types import History


def rows(folder: Path, variant: str) -> dict[str, Row]:
    """The rows of a variant by name."""
    system = Helios(folder, variant)
    found = {"request": Row(system.run_request)}
    if variant == "distilled":
        found["chunk"] = Row(system.chunk, nothing)
        for stage in range(3):
            found[f"forward, stage {stage}"] = Row(functools.partial(system.stage_call, stage))
        found["forward, alone"] = Row(system.alone)
        found["text"] = Row(system.text, system.features)
        found["vae decode"] = Row(system.vae_decode)
    square = jnp.ones((2048, 2048))
    product = jax.jit(jnp.dot)
    return found | {"matmul": Row(lambda: np.asarray(product(square, square)))}


class Inputs(NamedTuple):
    """The arguments of PyTorch's call at a stage, and what the sampler prepares of them."""

    latents: jax.Array
    timestep: jax.Array
    history: History
    time: jax.Array
    tokens: jax.Array


class Helios:
    """The checkpoint that was converted from diffusers' pipeline, and its request."""

    def __init__(self, folder: Path, variant: str):
        self.folder = folder
        self.pipeline = HeliosPipeline.from_checkpoint(folder / "jax")
        self.params = self.pipeline.params["transformer"]
        self.noise = [
            ChunkNoise(jnp.asarray(unit), tuple(map(jnp.asarray, blocks)))
            for unit, *blocks in case.read_noise(folder, variant)
        ]
        self.request = make_request(
            self.pipeline.config,
            height=case.HEIGHT,
            width=case.WIDTH,
            num_frames=33 * case.CHUNKS[variant],
            steps=case.STEPS[variant],
            guidance_scale=case.GUIDANCE[variant],
            negative_prompt=case.NEGATIVE,
        )
        self.indices = frame_indices(self.request.plan.history_sizes, case.LATENTS[0])
        self.stage_inputs = functools.cache(self._stage_inputs)
        self.embed_time = self._compiled("embed_time")
        self.embed_history = self._compiled("embed_history", self.indices)
        self.denoise = self._compiled("denoise", self.indices.noisy)
        self.predict = self._compiled("__call__", self.indices)

    def run_request(self) -> np.ndarray:
        """Frames of a whole request, cut to 4m + 1 as diffusers cuts them."""
        frames = self.pipeline.generate(
            case.PROMPT, self.request, noise=self.noise, output="float32"
        )
        return frames[:, : reference_frames(self.pipeline.config, self.request.num_frames)]

    def chunk(self) -> None:
        """The program of the last chunk."""
        state = start_history((1, *case.LATENTS[1:]), self.request.plan.history_sizes)
        _, latents = sample_chunk(
            self.params,
            state,
            self.noise[-1],
            self.prompt_features,
            jnp.float32(1),
            model=self.pipeline.transformer,
            scheduler=self.pipeline.config.scheduler,
            plan=self.request.plan,
        )
        latents.block_until_ready()

    def stage_call(self, stage: int) -> np.ndarray:
        """One call, its text and history prepared."""
        given = self.stage_inputs(stage)
        args = given.latents, given.time, self.prompt_features, given.tokens
        return np.asarray(self.denoise(self.params, *args))

    def alone(self) -> np.ndarray:
        """The call of the last stage with nothing prepared."""
        given = self.stage_inputs(2)
        args = given.latents, given.timestep, self.all_features, given.history
        return np.asarray(self.predict(self.params, *args))

    def text(self) -> None:
        """The prompt as the sampler encodes it."""
        jax.block_until_ready(self.pipeline.encode_prompts([case.PROMPT]))

    def features(self) -> np.ndarray:
        """Features of the prompt, padded with zeros as diffusers pads them."""
        pipeline = self.pipeline
        total = pipeline.config.text_encoder.max_sequence_length
        ids, lengths = pipeline.tokenizer([clean_prompt(case.PROMPT)], total)
        found, _ = encode_text(pipeline.text_encoder, pipeline.params["text_encoder"], ids, lengths)
        return np.pad(np.asarray(found), [(0, 0), (0, total - found.shape[1]), (0, 0)])

    def vae_decode(self) -> np.ndarray:
        """Frames of the last chunk, in [-1, 1]."""
        return 2 * np.asarray(self.pipeline.decode(self.model_latents, "float32")) - 1

    @functools.cached_property
    def prompt_features(self):
        return self.pipeline.encode_prompts([case.PROMPT])

    @functools.cached_property
    def all_features(self) -> jax.Array:
        return jnp.asarray(self.features())

    @functools.cached_property
    def model_latents(self) -> jax.Array:
        """The latents that PyTorch's VAE got, as the transformer knows them."""
        config = self.pipeline.config.vae
        mean = np.asarray(config.latents_mean, np.float32)
        std = np.asarray(config.latents_std, np.float32)
        return jnp.asarray((np.load(self.folder / "decoded.npy") - mean) / std)

    def _stage_inputs(self, stage: int) -> Inputs:
        given = np.load(self.folder / f"stage{stage}.npz")
        history = History(
            *(jnp.asarray(given[f"latents_history_{name}"]) for name in History._fields)
        )
        timestep = jnp.asarray(given["timestep"], jnp.float32)
        return Inputs(
            latents=jnp.asarray(given["latents"]),
            timestep=timestep,
            history=history,
            time=self.embed_time(self.params, timestep),
            tokens=self.embed_history(self.params, history),
        )

    def _compiled(self, method: str, *known):
        """A method of the transformer, jitted; ``known`` are its last arguments."""

        def call(params, *args):
            return self.pipeline.transformer.apply({"params": params}, *args, *known, method=method)

        return jax.jit(call)
