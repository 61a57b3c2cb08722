"""What a chunk leaves out, and in which dtype it is kept."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint.params import abstract_params
from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.history import start_history
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.diffusion.schedules import make_noise_schedule
from helios_jax.models.block import Rope, TextCache
from helios_jax.models.transformer import HeliosTransformer, HistoryTokens, TimeEmbedding
from helios_jax.sampling.chunk import (
    ChunkPlan,
    Denoiser,
    embed_plan,
    sample_chunk,
    solve,
    stage_schedule,
    step_kinds,
)

from .conftest import TOY

START = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 4, 4, 3)), jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formula(Denoiser):
    """A formula of sample and step in the place of the network."""

    formula: Callable

    def embed_times(self, timesteps):
        indices = jnp.arange(len(timesteps), dtype=jnp.float32)
        return TimeEmbedding(indices[:, None], jnp.zeros((len(timesteps), 6, 1)))

    def velocity(self, kind, sample, time):
        return jnp.zeros_like(sample) if kind == "zero" else self.formula(sample, time.temb[0])


def stage(formula, zeros, steps=4):
    """One stage of UniPC."""
    plan = ChunkPlan((steps,), guided=True, cfg_zero_star=True, zero_init_steps=zeros)
    shared = dict.fromkeys(("params", "history", "text", "guidance_scale", "model"))
    network = Formula(formula=formula, scheduler=SchedulerConfig(), plan=plan, **shared)
    sample, _ = solve(network, START, make_noise_schedule(SchedulerConfig(), 0, steps, 540), 0)
    return sample


@pytest.mark.parametrize("zeros", [1, 2, 4])
def test_zero_velocity_of_first_steps_needs_no_network(zeros):
    """CFG-Zero*'s first steps, left out, give what running the network and multiplying by zero
    gives.
    """
    velocity = lambda sample, index: 0.8 * sample + 0.1 * index
    multiplied = stage(
        lambda sample, index: velocity(sample, index) * (index >= zeros).astype(jnp.float32),
        zeros=0,
    )
    np.testing.assert_allclose(stage(velocity, zeros), multiplied, rtol=1e-5, atol=2e-6)


def test_kinds_of_steps():
    """Guidance is used within its interval, ends included; CFG-Zero*'s first steps are those of the
    first stage of a guided video.
    """
    levels = np.array([0.9, 0.8, 0.5, 0.1])
    plan = ChunkPlan(
        (4,), guided=True, guidance_interval=(0.5, 0.8), cfg_zero_star=True, zero_init_steps=1
    )
    assert step_kinds(plan, 0, levels) == ["zero", "guided", "guided", "prompt"]
    assert step_kinds(plan, 1, levels) == ["prompt", "guided", "guided", "prompt"]
    assert step_kinds(plan._replace(zero_init_steps=9), 0, levels) == ["zero"] * 4
    assert step_kinds(plan._replace(guided=False), 0, levels) == ["prompt"] * 4
    assert step_kinds(ChunkPlan((4,), guided=True), 0, levels) == ["guided"] * 4


def test_timesteps_of_all_stages_are_embedded_as_each_stage_alone(pipeline):
    denoiser = Denoiser(
        params=pipeline.params["transformer"],
        history=HistoryTokens(jnp.zeros((1, 0, 24)), None, Rope(*jnp.zeros((2, 0, 6))), None),
        text=TextCache((), (), None),
        guidance_scale=jnp.float32(1),
        model=HeliosTransformer(TOY.transformer),
        scheduler=TOY.scheduler,
        plan=ChunkPlan((2, 7, 1), guided=False),
    )
    shape = (1, 9, 8, 16, 4)
    together = embed_plan(denoiser, shape)
    first = 0
    for stage in range(3):
        timesteps = stage_schedule(denoiser, shape, stage).timesteps
        alone = denoiser.embed_times(timesteps)
        for ours, theirs in zip(together, alone, strict=True):
            ours = ours[first : first + len(timesteps)]
            assert ours.shape[0] == len(timesteps)
            np.testing.assert_allclose(ours, theirs[: len(timesteps)], rtol=1e-5, atol=1e-6)
        first += len(timesteps)


@pytest.mark.slow
def test_steps_outside_the_interval_follow_the_prompt_alone(guided):
    """If none is within it is a scale of 1; if some are it is neither that nor guidance of all."""

    def latents(scale, interval=(0.0, 1.0)):
        changes = dict(cfg_zero_star=False, zero_init_steps=0, guidance_interval=interval)
        return guided.generate(
            "a red ball",
            negative_prompt="blur",
            num_frames=33,
            steps=(2, 1, 1),
            guidance_scale=scale,
            output="latent",
            **changes,
        )

    alone, some, everywhere = latents(1.0), latents(3.0, (0.4, 0.8)), latents(3.0)
    np.testing.assert_allclose(latents(3.0, (1.0, 1.0)), alone, rtol=1e-5, atol=1e-5)
    assert min(np.abs(some - alone).max(), np.abs(some - everywhere).max()) > 1e-2


@pytest.mark.parametrize("guided", [False, True])
def test_latents_of_a_bfloat16_model_stay_float32(guided):
    """Sample, solver and history are float32 from chunk to chunk; only the network computes in
    bfloat16.
    """
    model = HeliosTransformer(TOY.transformer, jnp.bfloat16)
    params = abstract_params(TOY, jnp.bfloat16)["transformer"]
    apply = functools.partial(model.apply, method="embed_text")
    text = jax.eval_shape(
        lambda params, text: apply({"params": params}, text),
        params,
        jnp.zeros((1 + guided, 3, 16), jnp.bfloat16),
    )
    noise = jax.eval_shape(
        lambda keys: draw_chunk_noise(keys, 0, (9, 8, 16, 4), 3, 1 / 3),
        jax.random.split(jax.random.key(0), 1),
    )
    plan = ChunkPlan((2, 1, 1), guided, cfg_zero_star=guided, zero_init_steps=1)
    run = functools.partial(sample_chunk, model=model, scheduler=SchedulerConfig(), plan=plan)
    state, latents = jax.eval_shape(
        run, params, start_history((1, 8, 16, 4), (16, 2, 1)), noise, text, jnp.float32(3)
    )
    assert text.key.dtype == jnp.bfloat16
    assert latents.dtype == state.window.dtype == state.anchor.dtype == jnp.float32
