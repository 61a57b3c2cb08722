"""One chunk of video, all stages and steps, as one compiled program."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.guidance import guide, guide_zero_star
from helios_jax.diffusion.history import HistoryState, append_chunk, frame_indices, split_history
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.diffusion.pyramid import downsample_noise, renoise, stage_grids
from helios_jax.diffusion.schedules import make_schedule, shift_tokens, stage_tables
from helios_jax.diffusion.solvers import SolverTable, solver_step, solver_table, start_solver
from helios_jax.models.block import TextCache
from helios_jax.models.transformer import HeliosTransformer, HistoryTokens, TimeEmbedding
from helios_jax.types import Array, Float, Params


class ChunkPlan(NamedTuple):
    """What fixes the program of a chunk beside the model; static.

    Attributes:
      steps: solver steps of each stage, coarsest first.
      guided: whether every step also runs the negative prompt.
      cfg_zero_star: guidance against the projected negative velocity.
      zero_init_steps: leading steps of the first stage at which CFG-Zero* takes a velocity of zero.
      history_sizes: latent frames of long, mid and newest history.
    """

    steps: tuple[int, ...]
    guided: bool
    cfg_zero_star: bool = False
    zero_init_steps: int = 0
    history_sizes: tuple[int, int, int] = (16, 2, 1)


@functools.partial(jax.jit, static_argnames=("model", "scheduler", "plan", "on_stage"), donate_argnames="state")
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
    on_stage: Callable[[int], None] | None = None,
) -> tuple[HistoryState, Float[Array, "B T H W C"]]:
    """Sample the next chunk of latents.

    The first stage starts from the noise brought down to its resolution. Every later one starts from the stage before it, upsampled and given block
    noise; one stage alone is Helios-Base.

    Args:
      params: the transformer's.
      state: history; donated.
      noise: all noise of the chunk.
      text: keys and values of the prompts, batch B; where ``plan.guided``, batch 2B, the negative prompts last.
      guidance_scale: weight of the prompt against the negative prompt.
      model, scheduler, plan, on_stage: static.
      on_stage: called on the host with k when stage k is done, and with -1 when the chunk begins, for timing.

    Returns:
      The history after the chunk, and its latents in model space, float32.
    """
    _, T, H, W, _ = noise.latents.shape
    grids = stage_grids(H, W, scheduler.stages)
    indices = frame_indices(plan.history_sizes, T)
    _, ph, pw = model.config.patch_size
    tokens = [T * (rows // ph) * (columns // pw) for rows, columns in grids]
    apply = functools.partial(model.apply, {"params": params})

    history = apply(split_history(state, plan.history_sizes), indices, method="embed_history")
    if plan.guided:
        history = _twice(history)

    def velocity(sample, time):
        time = jax.tree.map(lambda row: row[None], time)
        if not plan.guided:
            return apply(sample, time, text, history, indices.noisy, method="denoise")
        both = apply(jnp.concatenate([sample, sample]), time, text, history, indices.noisy, method="denoise").astype(jnp.float32)
        return (guide_zero_star if plan.cfg_zero_star else guide)(*jnp.split(both, 2), guidance_scale)

    sample = noise.latents
    _report(on_stage, -1, sample)
    for _ in grids[1:]:
        sample = downsample_noise(sample)
    for stage, steps in enumerate(plan.steps):
        if stage > 0:
            sample = renoise(sample, noise.blocks[stage - 1], stage_tables(scheduler)[stage].original_start_sigma, scheduler.gamma)
        schedule = make_schedule(scheduler, stage, steps, shift_tokens(scheduler, stage, tokens))
        times = apply(jnp.asarray(schedule.timesteps, jnp.float32), method="embed_time")
        zeros = plan.zero_init_steps if stage == 0 and plan.guided and plan.cfg_zero_star else 0
        sample = _sample_stage(velocity, sample, solver_table(scheduler.solver, schedule.sigmas), times, zeros)
        _report(on_stage, stage, sample)
    return append_chunk(state, sample), sample


def _sample_stage(
    velocity: Callable[[Array, TimeEmbedding], Array],
    start: Float[Array, "B T H W C"],
    table: SolverTable,
    times: TimeEmbedding,
    zeros: int,
) -> Float[Array, "B T H W C"]:
    """From a stage's start point to its end point; at the first ``zeros`` steps the velocity is zero and the network is not run."""
    rows = lambda steps: jax.tree.map(lambda column: jnp.asarray(column[steps]), (table, times))

    def step(solver, row_and_time):
        row, time = row_and_time
        return solver_step(solver, velocity(solver.sample, time), start, row), None

    solver = start_solver(start)
    zeros = min(zeros, len(table.sigma))
    for i in range(zeros):
        solver = solver_step(solver, jnp.zeros_like(start), start, rows(i)[0])
    if zeros < len(table.sigma):
        solver, _ = jax.lax.scan(step, solver, rows(slice(zeros, None)))
    return solver.sample


def _twice(history: HistoryTokens) -> HistoryTokens:
    """The same history for the prompt and for the negative prompt."""
    twice = lambda x: None if x is None else jnp.concatenate([x, x])
    return history._replace(tokens=twice(history.tokens), first_qkv=twice(history.first_qkv))


def _report(on_stage: Callable[[int], None] | None, stage: int, sample: Float[Array, "B T H W C"]) -> None:
    """Tell the host that ``sample`` exists."""
    if on_stage is not None:
        jax.debug.callback(lambda _: on_stage(stage), sample[0, 0, 0, 0, 0])
