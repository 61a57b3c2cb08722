"""One chunk of video, all stages and steps, as one compiled program, or as one a stage where each
is to be timed.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.guidance import guide, guide_zero_star
from helios_jax.diffusion.history import HistoryState, append_chunk, frame_indices, split_history
from helios_jax.diffusion.noise import ChunkNoise, stage_start
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.diffusion.schedules import Schedule, make_schedule, shift_tokens
from helios_jax.diffusion.solvers import SolverTable, solver_step, solver_table, start_solver
from helios_jax.models.block import TextCache
from helios_jax.models.transformer import HeliosTransformer, HistoryTokens, TimeEmbedding
from helios_jax.types import Array, Float, Params


class ChunkPlan(NamedTuple):
    """What fixes the program of a chunk beside the model; static.

    Attributes:
      steps: solver steps of each stage, coarsest first.
      guided: whether steps also run the negative prompt.
      guidance_interval: least and greatest noise level, timestep / 1000, of those that do.
      cfg_zero_star: guidance against the projected negative velocity.
      zero_init_steps: leading steps of the first stage at which CFG-Zero* takes a velocity of zero.
      history_sizes: latent frames of long, mid and newest history.
    """

    steps: tuple[int, ...]
    guided: bool
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    cfg_zero_star: bool = False
    zero_init_steps: int = 0
    history_sizes: tuple[int, int, int] = (16, 2, 1)


_STATIC = ("model", "scheduler", "plan")


@functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames="state")
def sample_chunk(
    params: Params,
    state: HistoryState,
    noise: ChunkNoise,
    text: TextCache,
    guidance_scale: Float[Array, ""],
    *,
    model: HeliosTransformer,
    scheduler: SchedulerConfig,
    plan: ChunkPlan,
) -> tuple[HistoryState, Float[Array, "B T H W C"]]:
    """Sample the next chunk of latents.

    The first stage starts from the noise brought down to its resolution. Every later one starts
    from the stage before it, upsampled and given block noise; one stage alone is Helios-Base.
    Guidance is done in float32, whatever the model's dtype.

    Args:
      params: the transformer's.
      state: history; donated.
      noise: all noise of the chunk.
      text: keys and values of the prompts, batch B; where ``plan.guided``, batch 2B, the negative
        prompts last.
      guidance_scale: weight of the prompt against the negative prompt.
      model, scheduler, plan: static.

    Returns:
      The history after the chunk, and its latents in model space, float32.
    """
    history = embed_chunk_history(params, state, noise.latents.shape[1], model=model, plan=plan)
    sample = None
    for stage in range(len(plan.steps)):
        sample = sample_stage(
            params,
            history,
            sample,
            noise,
            text,
            guidance_scale,
            model=model,
            scheduler=scheduler,
            plan=plan,
            stage=stage,
        )
    return append_chunk(state, sample), sample


def sample_chunk_by_stages(
    params: Params,
    state: HistoryState,
    noise: ChunkNoise,
    text: TextCache,
    guidance_scale: Float[Array, ""],
    *,
    timed: Callable[[str], AbstractContextManager[Callable]],
    **static: Any,
) -> tuple[HistoryState, Float[Array, "B T H W C"]]:
    """What :func:`sample_chunk` does, by one program a stage, each inside ``timed("stage k")``,
    which is told the sample when it is asked for.
    """
    history = _embed_chunk_history(
        params, state, noise.latents.shape[1], model=static["model"], plan=static["plan"]
    )
    sample = None
    for stage in range(len(static["plan"].steps)):
        with timed(f"stage {stage}") as done:
            sample = done(
                _sample_stage(
                    params, history, sample, noise, text, guidance_scale, stage=stage, **static
                )
            )
    return _append_chunk(state, sample), sample


def embed_chunk_history(
    params: Params, state: HistoryState, frames: int, *, model: HeliosTransformer, plan: ChunkPlan
) -> HistoryTokens:
    """Tokens of the history before a chunk of ``frames`` latent frames; twice where steps also run
    the negative prompt.
    """
    history = model.apply(
        {"params": params},
        split_history(state, plan.history_sizes),
        frame_indices(plan.history_sizes, frames),
        method="embed_history",
    )
    if not plan.guided:
        return history
    twice = lambda x: None if x is None else jnp.concatenate([x, x])
    return history._replace(tokens=twice(history.tokens), first_qkv=twice(history.first_qkv))


def sample_stage(
    params: Params,
    history: HistoryTokens,
    sample: Float[Array, "B T _ _ C"] | None,
    noise: ChunkNoise,
    text: TextCache,
    guidance_scale: Float[Array, ""],
    *,
    model: HeliosTransformer,
    scheduler: SchedulerConfig,
    plan: ChunkPlan,
    stage: int,
    schedule: Schedule | None = None,
    path: bool = False,
) -> Float[Array, "B T _ _ C"] | Float[Array, "M1 B T _ _ C"]:
    """All steps of one pyramid stage, from the sample of the stage before it (None for the first).

    ``schedule`` takes the place of the plan's steps; with ``path``, the sample before every step
    and after the last is returned.
    """
    _, T, H, W, _ = noise.latents.shape
    frames = frame_indices(plan.history_sizes, T).noisy
    _, ph, pw = model.config.patch_size
    tokens = [
        T * (rows // ph) * (columns // pw) for rows, columns in stage_grids(H, W, scheduler.stages)
    ]
    apply = functools.partial(model.apply, {"params": params})

    sample = stage_start(sample, noise, scheduler, stage)
    schedule = schedule or make_schedule(
        scheduler, stage, plan.steps[stage], shift_tokens(scheduler, stage, tokens)
    )
    times = apply(jnp.asarray(schedule.timesteps, jnp.float32), method="embed_time")
    alone = _first_half(text, history) if plan.guided else (text, history)

    def denoise(sample, time, text, history):
        return apply(
            sample,
            jax.tree.map(lambda row: row[None], time),
            text,
            history,
            frames,
            method="denoise",
        )

    def guided(sample, time):
        both = denoise(jnp.concatenate([sample, sample]), time, text, history).astype(jnp.float32)
        return (guide_zero_star if plan.cfg_zero_star else guide)(
            *jnp.split(both, 2), guidance_scale
        )

    velocities = {
        "zero": lambda sample, time: jnp.zeros_like(sample),
        "prompt": lambda sample, time: denoise(sample, time, *alone),
        "guided": guided,
    }
    kinds = step_kinds(plan, stage, schedule.timesteps / scheduler.num_train_timesteps)
    parts = [(velocities[kind], len(list(steps))) for kind, steps in itertools.groupby(kinds)]
    fresh = noise.steps[stage] if noise.steps else None
    table = solver_table(scheduler.solver, schedule.sigmas)
    return _solve(parts, sample, table, times, path, fresh)


def step_kinds(plan: ChunkPlan, stage: int, levels: Float[np.ndarray, "M"]) -> list[str]:
    """What the velocity is at each step of a stage: ``"zero"``, that of the ``"prompt"`` alone, or
    ``"guided"``; levels are timesteps from 0 to 1.
    """
    low, high = plan.guidance_interval
    within = (low <= levels) & (levels <= high)
    zeros = plan.zero_init_steps if stage == 0 and plan.guided and plan.cfg_zero_star else 0
    return [
        "zero" if i < zeros else "guided" if plan.guided and within[i] else "prompt"
        for i in range(len(levels))
    ]


def _first_half(text: TextCache, history: HistoryTokens) -> tuple[TextCache, HistoryTokens]:
    """The prompts' part of what holds prompts and negative prompts."""
    B = history.tokens.shape[0] // 2
    half = lambda x: None if x is None else x[:B]
    text = TextCache(text.key[:, :B], text.value[:, :B], half(text.bias))
    return text, history._replace(tokens=half(history.tokens), first_qkv=half(history.first_qkv))


_embed_chunk_history = jax.jit(embed_chunk_history, static_argnames=("frames", "model", "plan"))
_sample_stage = jax.jit(sample_stage, static_argnames=(*_STATIC, "stage"))
_append_chunk = jax.jit(append_chunk, donate_argnums=0)


def _solve(
    parts: Sequence[tuple[Callable[[Array, TimeEmbedding], Array], int]],
    start: Float[Array, "B T H W C"],
    table: SolverTable,
    times: TimeEmbedding,
    path: bool = False,
    fresh: Float[Array, "M B T H W C"] | None = None,
) -> Float[Array, "B T H W C"] | Float[Array, "M1 B T H W C"]:
    """From a stage's start point to its end point; each part is a velocity, and the number of steps
    that follow it.
    """
    rows = lambda first, count: jax.tree.map(
        lambda column: jnp.asarray(column[first : first + count]), (table, times, fresh)
    )

    def step(velocity, solver, given):
        row, time, noise = given
        following = solver_step(solver, velocity(solver.sample, time), start, row, noise)
        return following, solver.sample if path else None

    solver, points, first = start_solver(start), [], 0
    for velocity, count in parts:
        solver, between = jax.lax.scan(
            functools.partial(step, velocity), solver, rows(first, count)
        )
        points.append(between)
        first += count
    return jnp.concatenate([*points, solver.sample[None]]) if path else solver.sample
