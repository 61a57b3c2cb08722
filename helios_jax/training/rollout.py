"""Staged backward simulation: the few-step sampler as a differentiable function, stopped after a
random step of every stage (Helios, section 3.3).

A student is trained on what it generates itself (Self Forcing, Huang et al. 2025). Each stage runs
to a step that was drawn for it, its *exit*, and hands on the data predicted there. Gradients flow
through the exit step of each stage and, where that is the stage's first, on into the stage before
it; the steps before an exit have none. So memory is that of one step a stage, however many there
are, and all exits are one program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise, stage_start
from helios_jax.diffusion.schedules import make_noise_schedule, shift_tokens
from helios_jax.training.denoising import VelocityFn
from helios_jax.types import Array, Bool, Float, Int, Params, PRNGKeyArray


class RolloutDraws(NamedTuple):
    """All that is random about a rollout.

    Attributes:
      noise: of its chunk.
      exits: the step at which each sample leaves each stage.
    """

    noise: ChunkNoise
    exits: Int[Array, "B stages"]


class StepTable(NamedTuple):
    """The steps of one stage in float64: row 0 those of most chunks, padded; row 1 those of an
    amplified first chunk, twice as many.

    Attributes:
      sigma: noise level of each step, and 0 after the last.
      timestep: of each step, as the network takes it.
    """

    sigma: Float[np.ndarray, "2 M1"]
    timestep: Float[np.ndarray, "2 M"]


def step_tables(
    scheduler: SchedulerConfig, steps: tuple[int, ...], tokens: list[int]
) -> list[StepTable]:
    """The steps of every stage as the sampler takes them: row 0 ``steps``, row 1 twice as many.

    Args:
      scheduler: whose solver is ``"dmd"``.
      steps: of each stage, coarsest first.
      tokens: noisy tokens at each stage.
    """
    tables = []
    for stage, count in enumerate(steps):
        shift = shift_tokens(scheduler, stage, tokens)
        few = make_noise_schedule(scheduler, stage, count, shift)
        many = make_noise_schedule(scheduler, stage, 2 * count, shift)
        sigma = [_padded(schedule.sigmas, 2 * count + 1) for schedule in (few, many)]
        timestep = [_padded(schedule.timesteps, 2 * count) for schedule in (few, many)]
        tables.append(StepTable(np.stack(sigma), np.stack(timestep)))
    return tables


def draw_rollout(
    key: PRNGKeyArray,
    shape: tuple[int, int, int, int],
    scheduler: SchedulerConfig,
    steps: tuple[int, ...],
    amplified: Bool[Array, ""],
    last_step_only: bool = False,
) -> RolloutDraws:
    """Draw the noise and the exits of one sample, without a batch axis; each exit is uniform over
    its stage's steps.

    Args:
      key: of the sample.
      shape: (T, H, W, C) of its latents.
      scheduler: the student's.
      steps: of each stage.
      amplified: whether the sample has no history and takes twice the steps.
      last_step_only: every exit is its stage's last step.
    """
    noise_key, exit_key = jax.random.split(key)
    noise = draw_chunk_noise(noise_key[None], 0, shape, scheduler.stages, scheduler.gamma)
    noise = jax.tree.map(lambda x: x[0], noise)
    counts = jnp.asarray(steps) * jnp.where(amplified, 2, 1)
    exits = counts - 1
    if not last_step_only:
        exits = jax.random.randint(exit_key, counts.shape, 0, counts)
    return RolloutDraws(noise, exits)


def rollout(
    bind: Callable[[Params], VelocityFn],
    params: Params,
    draws: RolloutDraws,
    amplified: Bool[Array, "B"],
    tables: list[StepTable],
    scheduler: SchedulerConfig,
) -> Float[Array, "B T H W C"]:
    """The data that the last stage predicts at its exit, differentiable in ``params``.

    From a stage's start S, with x the data predicted at noise level sigma_i, step i goes on from
    ``(1 - sigma_{i+1}) x + sigma_{i+1} S``.

    Args:
      bind: the student as a function of its parameters; called with parameters that have a gradient
        and with the same without.
      params: what trains.
      draws: of every sample.
      amplified: which samples have no history and take twice the steps.
      tables: from :func:`step_tables`.
      scheduler: the student's.
    """
    student = bind(params)
    constant = bind(jax.lax.stop_gradient(params))
    data: Any = None
    for stage, table in enumerate(tables):
        start = stage_start(data, draws.noise, scheduler, stage)
        row = amplified.astype(jnp.int32)
        sigma = jnp.asarray(table.sigma, start.dtype)[row]
        timestep = jnp.asarray(table.timestep, start.dtype)[row]
        data = _run_stage(student, constant, start, draws.exits[:, stage], sigma, timestep)
    return data


def _run_stage(
    student: VelocityFn,
    constant: VelocityFn,
    start: Float[Array, "B T _ _ C"],
    exits: Int[Array, "B"],
    sigma: Float[Array, "B M1"],
    timestep: Float[Array, "B M"],
) -> Float[Array, "B T _ _ C"]:
    """The data that the student predicts at the exit of a stage; the steps before it are those of
    ``constant``, its copy without a gradient.
    """

    def column(values):
        return values[:, None, None, None, None]

    def at(values, step):
        return jnp.take_along_axis(values, step[:, None], axis=1)[:, 0]

    def predict(network, x, step):
        velocity = network(x, at(timestep, step)).astype(x.dtype)
        return x - column(at(sigma, step)) * velocity

    fixed = jax.lax.stop_gradient(start)

    def step(i, x):
        each = jnp.full(exits.shape, i)
        onward = column(at(sigma, each + 1))
        following = (1 - onward) * predict(constant, x, each) + onward * fixed
        return jnp.where(column(i < exits), following, x)

    reached = jax.lax.fori_loop(0, exits.max(), step, fixed)
    return predict(student, jnp.where(column(exits == 0), start, reached), exits)


def _padded(values: Float[np.ndarray, "n"], size: int) -> Float[np.ndarray, "size"]:
    """Values with zeros behind them."""
    return np.pad(values, (0, size - len(values)))
