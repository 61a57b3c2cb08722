"""Staged backward simulation: the few-step sampler as a differentiable function, stopped after a
random step of every stage (Helios, section 3.3).

A student is trained on what it makes by itself. Each stage runs to a step that was drawn for it,
its *exit*, and hands on the data predicted there. Gradients flow through the exit step of each
stage and, where that is the stage's first, on into the stage before it; the steps before an exit
have none. So memory is that of one step a stage, however many there are, and all exits are one
program.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise, stage_start
from helios_jax.diffusion.schedules import make_schedule, shift_tokens
from helios_jax.training.step import Network
from helios_jax.types import Array, Bool, Float, Int, Params, PRNGKeyArray


class RolloutDraws(NamedTuple):
    """All that is random about a rollout: the noise of its chunk, and at which step each sample
    leaves each stage.
    """

    noise: ChunkNoise
    exits: Int[Array, "B stages"]


class StepTable(NamedTuple):
    """The steps of one stage in float64: those of most chunks, padded, and those of a first chunk
    that is amplified, twice as many.

    Attributes:
      sigma: noise level of each step, and 0 after the last.
      timestep: what the network is told.
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
        rows = [
            make_schedule(scheduler, stage, n, shift_tokens(scheduler, stage, tokens))
            for n in (count, 2 * count)
        ]
        pad = lambda values, size: np.pad(values, (0, size - len(values)))
        tables.append(
            StepTable(
                np.stack([pad(row.sigmas, 2 * count + 1) for row in rows]),
                np.stack([pad(row.timesteps, 2 * count) for row in rows]),
            )
        )
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
      amplified: whether the sample has no past and takes twice the steps.
      last_step_only: every exit is its stage's last step.
    """
    noise, leave = jax.random.split(key)
    noise = jax.tree.map(
        lambda x: x[0], draw_chunk_noise(noise[None], 0, shape, scheduler.stages, scheduler.gamma)
    )
    counts = jnp.asarray(steps) * jnp.where(amplified, 2, 1)
    exits = counts - 1 if last_step_only else jax.random.randint(leave, counts.shape, 0, counts)
    return RolloutDraws(noise, exits)


def rollout(
    bind: Callable[[Params], Network],
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
      amplified: which samples have no past and take twice the steps.
      tables: from :func:`step_tables`.
      scheduler: the student's.
    """
    student, constant, data = bind(params), bind(jax.lax.stop_gradient(params)), None
    for stage, table in enumerate(tables):
        start = stage_start(data, draws.noise, scheduler, stage)
        sigma, timestep = (
            jnp.asarray(values, start.dtype)[amplified.astype(jnp.int32)]
            for values in (table.sigma, table.timestep)
        )
        data = _run_stage(student, constant, start, draws.exits[:, stage], sigma, timestep)
    return data


def _run_stage(
    student: Network,
    constant: Network,
    start: Float[Array, "B T _ _ C"],
    leave: Int[Array, "B"],
    sigma: Float[Array, "B M1"],
    timestep: Float[Array, "B M"],
) -> Float[Array, "B T _ _ C"]:
    """The data predicted at step ``leave`` of a stage, by the student; the steps before it are
    those of its twin without a gradient.
    """
    column = lambda values: values[:, None, None, None, None]
    at = lambda values, step: jnp.take_along_axis(values, step[:, None], axis=1)[:, 0]
    predict = lambda network, x, step: (
        x - column(at(sigma, step)) * network(x, at(timestep, step)).astype(x.dtype)
    )
    fixed = jax.lax.stop_gradient(start)

    def step(i, x):
        each = jnp.full(leave.shape, i)
        following = column(at(sigma, each + 1))
        return jnp.where(
            column(i < leave), (1 - following) * predict(constant, x, each) + following * fixed, x
        )

    reached = jax.lax.fori_loop(0, leave.max(), step, fixed)
    return predict(student, jnp.where(column(leave == 0), start, reached), leave)
