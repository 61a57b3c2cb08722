"""One chunk of video, all stages and steps, as one compiled program, or as one a stage where each
is to be timed.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.guidance import guide, guide_zero_star
from helios_jax.diffusion.history import HistoryState, append_chunk, frame_indices, split_history
from helios_jax.diffusion.noise import ChunkNoise, stage_start
from helios_jax.diffusion.pyramid import stage_tokens
from helios_jax.diffusion.schedules import Schedule, make_noise_schedule, shift_tokens
from helios_jax.diffusion.solvers import solver_step, solver_table, start_solver
from helios_jax.models.block import TextCache
from helios_jax.models.layer_stack import COPY_OPTIONS
from helios_jax.models.transformer import HeliosTransformer, HistoryTokens, TimeEmbedding
from helios_jax.types import Array, Float, Int, Params


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


StepKind = Literal["zero", "prompt", "guided"]
"""What the velocity of a step is: zero, that of the prompt alone, or guided."""

STATIC = {"static": True}
"""Marks a field that is part of a compiled program, and not one of its inputs."""


def apply(model: HeliosTransformer, params: Params, method: str, *args: Any) -> Any:
    """Call a method of the transformer with its parameters."""
    return model.apply({"params": params}, *args, method=method)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
    """The transformer, bound to what all steps of a chunk share.

    Attributes:
      params: the transformer's.
      history: tokens of the chunks before; where ``plan.guided``, twice.
      text: keys and values of the prompts; where ``plan.guided``, followed by the negative ones.
      guidance_scale: weight of the prompt against the negative prompt.
      times: the plan's embedded timesteps, those of one stage after another; None where stages
        embed their own.
      model, scheduler, plan: static.
    """

    params: Params
    history: HistoryTokens
    text: TextCache
    guidance_scale: Float[Array, ""]
    times: TimeEmbedding | None = None
    model: HeliosTransformer = dataclasses.field(metadata=STATIC)
    scheduler: SchedulerConfig = dataclasses.field(metadata=STATIC)
    plan: ChunkPlan = dataclasses.field(metadata=STATIC)

    def embed_times(self, timesteps: np.ndarray) -> TimeEmbedding:
        """Embeddings of timesteps, a row each, and behind them spare rows."""
        # On a GPU, XLA would pad the rows of a bfloat16 product to these in a launch of its own.
        rows = np.zeros(-(-len(timesteps) // 8) * 8, np.float32)
        rows[: len(timesteps)] = timesteps
        return apply(self.model, self.params, "embed_time", jnp.asarray(rows))

    def velocity(
        self, kind: StepKind, sample: Float[Array, "B T _ _ C"], time: TimeEmbedding
    ) -> Float[Array, "B T _ _ C"]:
        """The velocity at one time. Guidance is done in float32, whatever the model's dtype."""
        if kind == "zero":
            return jnp.zeros_like(sample)
        if kind == "prompt":
            text, history = self.text, self.history
            if self.plan.guided:
                text, history = _first_half(text, history)
            return self._apply(sample, time, text, history)
        twice = jnp.concatenate([sample, sample])
        both = self._apply(twice, time, self.text, self.history).astype(jnp.float32)
        combine = guide_zero_star if self.plan.cfg_zero_star else guide
        positive, negative = jnp.split(both, 2)
        return combine(positive, negative, self.guidance_scale)

    def _apply(
        self,
        sample: Float[Array, "B T _ _ C"],
        time: TimeEmbedding,
        text: TextCache,
        history: HistoryTokens,
    ) -> Float[Array, "B T _ _ C"]:
        """The network's output for every sample of a batch at one time."""
        time = jax.tree.map(lambda row: row[None], time)
        frames = frame_indices(self.plan.history_sizes, sample.shape[1]).noisy
        return apply(self.model, self.params, "denoise", sample, time, text, history, frames)


@functools.partial(jax.jit, static_argnames=("model", "scheduler", "plan"), donate_argnames="state")
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
    denoiser = Denoiser(
        params=params,
        history=history,
        text=text,
        guidance_scale=guidance_scale,
        model=model,
        scheduler=scheduler,
        plan=plan,
    )
    times = embed_plan(denoiser, noise.latents.shape)
    denoiser = dataclasses.replace(denoiser, times=times)
    sample = sample_stage(denoiser, None, noise, 0)
    for stage in range(1, len(plan.steps)):
        sample = sample_stage(denoiser, sample, noise, stage)
    return append_chunk(state, sample), sample


@functools.partial(
    jax.jit,
    static_argnames=("model", "scheduler", "plan"),
    donate_argnames="state",
    compiler_options=COPY_OPTIONS,
)
def sample_streamed_chunk(
    params: Params,
    state: HistoryState,
    noise: ChunkNoise,
    text: TextCache,
    guidance_scale: Float[Array, ""],
    **static: Any,
) -> tuple[HistoryState, Float[Array, "B T H W C"]]:
    """:func:`sample_chunk` of blocks in host memory, each copied while the one before it computes.

    Arguments are those of :func:`sample_chunk`.
    """
    return sample_chunk(params, state, noise, text, guidance_scale, **static)


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
    """:func:`sample_chunk` with one compiled program a stage, so that stages can be timed.

    ``timed(name)`` opens a context whose value blocks until the array that it is given is ready;
    the other arguments are those of :func:`sample_chunk`.
    """
    history = _embed_chunk_history(
        params, state, noise.latents.shape[1], model=static["model"], plan=static["plan"]
    )
    denoiser = Denoiser(
        params=params, history=history, text=text, guidance_scale=guidance_scale, **static
    )
    times = _embed_plan(denoiser, noise.latents.shape)
    denoiser = dataclasses.replace(denoiser, times=times)
    sample: Any = None
    for stage in range(len(static["plan"].steps)):
        with timed(f"stage {stage}") as done:
            sample = done(_sample_stage(denoiser, sample, noise, stage))
    return _append_chunk(state, sample), sample


def embed_chunk_history(
    params: Params, state: HistoryState, frames: int, *, model: HeliosTransformer, plan: ChunkPlan
) -> HistoryTokens:
    """Tokens of the history before a chunk of ``frames`` latent frames; twice where steps also run
    the negative prompt.
    """
    history = apply(
        model,
        params,
        "embed_history",
        split_history(state, plan.history_sizes),
        frame_indices(plan.history_sizes, frames),
    )
    if not plan.guided:
        return history
    twice: Callable[[Any], Any] = lambda x: None if x is None else jnp.concatenate([x, x])
    return history._replace(tokens=twice(history.tokens), first_qkv=twice(history.first_qkv))


def embed_plan(denoiser: Denoiser, shape: tuple[int, ...]) -> TimeEmbedding:
    """Embeddings of the plan's timesteps, one stage after another, for latents of ``shape``.

    All stages' are one product: of few rows, it costs what reading its weights does, 0.1 ms for the
    14B model on an H200.
    """
    stages = range(len(denoiser.plan.steps))
    schedules = [stage_schedule(denoiser, shape, stage).timesteps for stage in stages]
    return denoiser.embed_times(np.concatenate(schedules))


def sample_stage(
    denoiser: Denoiser,
    sample: Float[Array, "B T _ _ C"] | None,
    noise: ChunkNoise,
    stage: int,
) -> Float[Array, "B T _ _ C"]:
    """All steps of one pyramid stage.

    Args:
      denoiser: the network at this chunk.
      sample: of the stage before; None before the first.
      noise: all noise of the chunk.
      stage: 0 is the coarsest.
    """
    start = stage_start(sample, noise, denoiser.scheduler, stage)
    schedule = stage_schedule(denoiser, noise.latents.shape, stage)
    fresh = noise.steps[stage] if noise.steps else None
    before = 0
    if denoiser.times is not None:
        for earlier in range(stage):
            before += len(stage_schedule(denoiser, noise.latents.shape, earlier).timesteps)
    sample, _ = solve(denoiser, start, schedule, stage, fresh, before)
    return sample


def trace_stage(
    denoiser: Denoiser,
    sample: Float[Array, "B T _ _ C"] | None,
    noise: ChunkNoise,
    stage: int,
    schedule: Schedule,
) -> Float[Array, "M1 B T _ _ C"]:
    """:func:`sample_stage` by the steps of ``schedule``: the sample before every step and after the
    last.
    """
    start = stage_start(sample, noise, denoiser.scheduler, stage)
    sample, path = solve(denoiser, start, schedule, stage, trace=True)
    parts = [part for part in path if part is not None]
    return jnp.concatenate([*parts, sample[None]])


def stage_schedule(denoiser: Denoiser, shape: tuple[int, ...], stage: int) -> Schedule:
    """The plan's steps of a stage, for latents of ``shape`` (B, T, H, W, C)."""
    scheduler = denoiser.scheduler
    _, T, H, W, _ = shape
    tokens = stage_tokens((T, H, W), scheduler.stages, denoiser.model.config.patch_size)
    shift = shift_tokens(scheduler, stage, tokens)
    return make_noise_schedule(scheduler, stage, denoiser.plan.steps[stage], shift)


def solve(
    denoiser: Denoiser,
    start: Float[Array, "B T H W C"],
    schedule: Schedule,
    stage: int,
    fresh: Float[Array, "M B T H W C"] | None = None,
    before: int = 0,
    *,
    trace: bool = False,
) -> tuple[Float[Array, "B T H W C"], list[Array | None]]:
    """From a stage's start point to its end point.

    Steps whose velocity is of one kind are one loop of the compiled program.

    Args:
      denoiser: the network at this chunk.
      start: the sample that the stage starts from.
      schedule: its steps.
      stage: 0 is the coarsest.
      fresh: unit noise of every step, for solvers that add it.
      before: rows of ``denoiser.times``, where there are any, before those of the schedule.
      trace: whether the samples before the steps are wanted, too.

    Returns:
      The sample after the last step; and, with ``trace``, those before the steps, loop by loop.
    """
    levels = schedule.timesteps / denoiser.scheduler.num_train_timesteps
    kinds = step_kinds(denoiser.plan, stage, levels)
    steps = solver_table(denoiser.scheduler.solver, schedule.sigmas)
    times = denoiser.times
    if times is None:
        times = denoiser.embed_times(schedule.timesteps)
    numbers = before + np.arange(len(levels))

    def step(kind, solver, row):
        weights, number, noise = row
        # Of the whole table, which the kernels that use a row read; a loop's own would be a copy.
        time = jax.tree.map(lambda column: _row(column, number), times)
        velocity = denoiser.velocity(kind, solver.sample, time)
        after = solver_step(solver, velocity, start, weights, noise)
        return after, solver.sample if trace else None

    solver = start_solver(start)
    path = []
    first = 0
    for kind, run in itertools.groupby(kinds):
        last = first + len(list(run))
        rows = _rows((steps, numbers, fresh), first, last)
        solver, samples = jax.lax.scan(functools.partial(step, kind), solver, rows)
        path.append(samples)
        first = last
    return solver.sample, path


def step_kinds(plan: ChunkPlan, stage: int, levels: Float[np.ndarray, "M"]) -> list[StepKind]:
    """The kind of each step of a stage; levels are timesteps from 0 to 1."""
    low, high = plan.guidance_interval
    zeros = plan.zero_init_steps if stage == 0 and plan.guided and plan.cfg_zero_star else 0
    kinds: list[StepKind] = []
    for i, level in enumerate(levels):
        if i < zeros:
            kinds.append("zero")
        elif plan.guided and low <= level <= high:
            kinds.append("guided")
        else:
            kinds.append("prompt")
    return kinds


def _rows(tables: Any, first: int, last: int) -> Any:
    """Rows ``first`` to ``last`` of every column."""
    return jax.tree.map(lambda column: jnp.asarray(column[first:last]), tables)


def _row(column: Array, number: Int[Array, ""]) -> Array:
    """One row of a column."""
    return jax.lax.dynamic_index_in_dim(
        column, number, keepdims=False, allow_negative_indices=False
    )


def _first_half(text: TextCache, history: HistoryTokens) -> tuple[TextCache, HistoryTokens]:
    """The prompts' part of what holds prompts and negative prompts."""
    B = history.tokens.shape[0] // 2
    half: Callable[[Any], Any] = lambda x: None if x is None else x[:B]
    # Keys and values of all blocks, stacked or one array each.
    halves: Callable[[Any], Any] = lambda x: (
        tuple(map(half, x)) if isinstance(x, tuple) else x[:, :B]
    )
    text = TextCache(halves(text.key), halves(text.value), half(text.bias))
    return text, history._replace(tokens=half(history.tokens), first_qkv=half(history.first_qkv))


_embed_chunk_history = jax.jit(embed_chunk_history, static_argnames=("frames", "model", "plan"))
_embed_plan = jax.jit(embed_plan, static_argnames="shape")
_sample_stage = jax.jit(sample_stage, static_argnames="stage", compiler_options=COPY_OPTIONS)
_append_chunk = jax.jit(append_chunk, donate_argnums=0)
