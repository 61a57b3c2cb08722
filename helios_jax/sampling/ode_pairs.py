"""Trajectories of a teacher, for a few-step student to begin on: its samples at the student's noise
levels and at the end of each stage.

The student's noise levels join the teacher's, so that its trajectory passes through them exactly;
the first section has those of an amplified first chunk.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.data.trajectories import StagePath, Trajectory
from helios_jax.diffusion.history import append_chunk, start_history
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.diffusion.schedules import Schedule, make_schedule, merge_schedules, shift_tokens
from helios_jax.sampling.chunk import embed_chunk_history, sample_stage
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import make_request


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
        pairs.append(
            merge_schedules(
                make_schedule(scheduler, stage, many, shift), make_schedule(few, stage, own, shift)
            )
        )
    return pairs


def make_trajectory(
    pipeline: HeliosPipeline, prompt: str, key: jax.Array, sections: int, student: tuple[int, ...]
) -> Trajectory:
    """The trajectory of one video.

    Args:
      pipeline: the teacher.
      prompt: what it shows.
      key: of all its noise.
      sections: how many chunks.
      student: the student's steps at each stage; at the first section it takes twice as many.
    """
    config = pipeline.config
    request, scheduler, model = (
        make_request(config, num_frames=1),
        config.scheduler,
        pipeline.transformer,
    )
    T, H, W, C = request.latent_shape
    _, ph, pw = config.transformer.patch_size
    tokens = [
        T * (rows // ph) * (columns // pw) for rows, columns in stage_grids(H, W, scheduler.stages)
    ]
    features, length = pipeline.encode_prompt(prompt)
    text = pipeline.encode_prompts(
        [prompt], [config.sample.negative_prompt] if request.plan.guided else []
    )
    params, state, found = (
        pipeline.params["transformer"],
        start_history((1, H, W, C), request.plan.history_sizes),
        [],
    )
    static = dict(model=model, plan=request.plan)
    for section in range(sections):
        noise = draw_chunk_noise(
            key[None], section, request.latent_shape, scheduler.stages, scheduler.gamma
        )
        history, sample, stages = _embed(params, state, T, **static), None, []
        own = schedules(
            scheduler, request.plan.steps, tuple(n * (1 if section else 2) for n in student), tokens
        )
        for stage, (schedule, at) in enumerate(own):
            frozen = (tuple(schedule.timesteps), tuple(schedule.sigmas))
            path = _trace(
                params,
                history,
                sample,
                noise,
                text,
                jnp.float32(request.guidance_scale),
                frozen,
                scheduler=scheduler,
                stage=stage,
                **static,
            )
            sample = path[-1]
            chosen = np.asarray(path[np.append(at, len(path) - 1), 0], np.float32)
            stages.append(
                StagePath(
                    chosen,
                    schedule.sigmas[at].astype(np.float32),
                    schedule.timesteps[at].astype(np.float32),
                )
            )
        state = append_chunk(state, sample)
        found.append(stages)
    return Trajectory(found, np.asarray(features[0, : int(length[0])]))


_embed = jax.jit(embed_chunk_history, static_argnames=("frames", "model", "plan"))


@functools.partial(jax.jit, static_argnames=("frozen", "model", "scheduler", "plan", "stage"))
def _trace(params, history, sample, noise, text, guidance_scale, frozen, **static):
    """The samples of a stage before each of its steps and after the last."""
    schedule = Schedule(*map(np.array, frozen))
    return sample_stage(
        params, history, sample, noise, text, guidance_scale, schedule=schedule, path=True, **static
    )
