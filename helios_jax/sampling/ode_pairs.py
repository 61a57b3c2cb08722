"""Trajectories of a teacher, for a few-step student to begin on: its samples at the student's noise
levels and at the end of each stage.

The student's noise levels join the teacher's, so that its trajectory passes through them exactly;
the first section has those of an amplified first chunk.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.data.trajectories import StagePath, Trajectory
from helios_jax.diffusion.history import append_chunk, start_history
from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise
from helios_jax.diffusion.pyramid import stage_tokens
from helios_jax.diffusion.schedules import (
    Schedule,
    make_noise_schedule,
    merge_schedules,
    shift_tokens,
)
from helios_jax.sampling.chunk import Denoiser, embed_chunk_history, trace_stage
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import Request
from helios_jax.types import Array, Float


def schedules(
    scheduler: SchedulerConfig,
    teacher: tuple[int, ...],
    student: tuple[int, ...],
    tokens: list[int],
) -> list[tuple[Schedule, np.ndarray]]:
    """For every stage the teacher's steps with the student's among them, and which of them are the
    student's.

    Args:
      scheduler: the teacher's; the student's is the same with the solver ``"dmd"``.
      teacher, student: steps of each stage.
      tokens: noisy tokens at each stage.
    """
    few = dataclasses.replace(scheduler, solver="dmd")
    pairs = []
    for stage, (many, own) in enumerate(zip(teacher, student)):
        shift = shift_tokens(scheduler, stage, tokens)
        long = make_noise_schedule(scheduler, stage, many, shift)
        short = make_noise_schedule(few, stage, own, shift)
        pairs.append(merge_schedules(long, short))
    return pairs


def make_trajectory(
    pipeline: HeliosPipeline,
    prompt: str,
    request: Request,
    key: jax.Array,
    sections: int,
    student: tuple[int, ...],
) -> Trajectory:
    """The trajectory of one video.

    Args:
      pipeline: the teacher.
      prompt: what it shows.
      request: how the teacher samples; its noise levels must be shifted as the student's are.
      key: of all its noise.
      sections: how many chunks.
      student: the student's steps at each stage; at the first section it takes twice as many.
    """
    plan = request.plan
    scheduler = request.scheduler
    T, H, W, C = request.latent_shape
    tokens = stage_tokens((T, H, W), scheduler.stages, pipeline.config.transformer.patch_size)
    features, length = pipeline.encode_prompt(prompt)
    negatives = [request.negative_prompt] if plan.guided else []
    text = pipeline.encode_prompts([prompt], negatives)
    params = pipeline.params["transformer"]
    state = start_history((1, H, W, C), plan.history_sizes)
    found = []
    for section in range(sections):
        noise = draw_chunk_noise(
            key[None], section, request.latent_shape, scheduler.stages, scheduler.gamma
        )
        denoiser = Denoiser(
            params=params,
            history=_embed(params, state, T, model=pipeline.transformer, plan=plan),
            text=text,
            guidance_scale=jnp.float32(request.guidance_scale),
            model=pipeline.transformer,
            scheduler=scheduler,
            plan=plan,
        )
        own = tuple(n * (1 if section else 2) for n in student)
        pairs = schedules(scheduler, plan.steps, own, tokens)
        stages, sample = _trace_stages(denoiser, noise, pairs)
        state = append_chunk(state, sample)
        found.append(stages)
    return Trajectory(found, np.asarray(features[0, : int(length[0])]))


def _trace_stages(
    denoiser: Denoiser, noise: ChunkNoise, pairs: Sequence[tuple[Schedule, np.ndarray]]
) -> tuple[list[StagePath], Float[Array, "B T H W C"]]:
    """The samples of one chunk at the student's noise levels, and the chunk."""
    sample: Any = None
    stages = []
    for stage, (schedule, at) in enumerate(pairs):
        path = _trace(denoiser, sample, noise, stage, _hashable(schedule))
        sample = path[-1]
        chosen = np.asarray(path[np.append(at, len(path) - 1), 0], np.float32)
        sigmas = schedule.sigmas[at].astype(np.float32)
        stages.append(StagePath(chosen, sigmas, schedule.timesteps[at].astype(np.float32)))
    return stages, sample


def _hashable(schedule: Schedule) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A schedule as a static argument of a compiled program."""
    return tuple(schedule.timesteps), tuple(schedule.sigmas)


_embed = jax.jit(embed_chunk_history, static_argnames=("frames", "model", "plan"))


@functools.partial(jax.jit, static_argnames=("stage", "schedule"))
def _trace(
    denoiser: Denoiser,
    sample: Float[Array, "B T _ _ C"] | None,
    noise: ChunkNoise,
    stage: int,
    schedule: tuple[tuple[float, ...], tuple[float, ...]],
) -> Float[Array, "M1 B T _ _ C"]:
    """The samples of a stage before each of its steps and after the last."""
    timesteps, sigmas = schedule
    return trace_stage(
        denoiser, sample, noise, stage, Schedule(np.array(timesteps), np.array(sigmas))
    )
