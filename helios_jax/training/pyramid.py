"""Stage 2: one flow at every level of the pyramid (Pyramidal flow matching, Jin et al. 2024).

A level's flow begins at a start point, which is noisier and blockier, and ends at an end point,
from which the next finer level begins.
"""

import jax.numpy as jnp

from helios_jax.config import ConfigError, SchedulerConfig
from helios_jax.data.batches import TrainBatch
from helios_jax.diffusion.pyramid import downsample, downsample_noise, upsample
from helios_jax.diffusion.schedules import stage_tables
from helios_jax.training.config import TrainConfig
from helios_jax.training.denoising import (
    DenoisingBatch,
    denoising_batch,
    draw_denoising,
    make_denoising_loss,
)
from helios_jax.training.flops import StepCost, step_cost
from helios_jax.training.objective import Objective
from helios_jax.training.records import abstract_records, load_records
from helios_jax.training.step import Loss, descend_on
from helios_jax.training.targets import DenoisingTarget, FlowDraws, TimestepConfig, level_weight
from helios_jax.training.validation import validate_loss
from helios_jax.types import Array, Float, Params


def pyramid_points(
    latents: Float[Array, "T H W C"], noise: Float[Array, "T H W C"], scheduler: SchedulerConfig
) -> list[tuple[Float[Array, "T _ _ C"], Float[Array, "T _ _ C"]]]:
    """Start and end point of every level, coarsest first.

    With s and e the level's start and end sigma: ``s noise + (1 - s) up(down(x))`` to ``e noise +
    (1 - e) x``, x and noise at the level's resolution. The coarsest level starts from noise alone.
    """
    data = [latents[None]]
    noises = [noise[None]]
    for _ in range(scheduler.stages - 1):
        data.insert(0, downsample(data[0]))
        noises.insert(0, downsample_noise(noises[0]))
    points = []
    for level, (table, x, n) in enumerate(zip(stage_tables(scheduler), data, noises)):
        start = n
        if level:
            coarser = upsample(data[level - 1])
            start = table.start_sigma * n + (1 - table.start_sigma) * coarser
        end = table.end_sigma * n + (1 - table.end_sigma) * x
        points.append((start[0], end[0]))
    return points


def pyramid_targets(
    latents: Float[Array, "T H W C"],
    draws: FlowDraws,
    scheduler: SchedulerConfig,
    timesteps: TimestepConfig,
    counts: tuple[int, ...],
) -> list[DenoisingTarget]:
    """Points ``sigma start + (1 - sigma) end`` of each level, whose velocity is ``start - end``.

    Args:
      latents: of a sample, at full resolution.
      draws: one noise, brought down to each level, and the place of each sigma in its table.
      scheduler: the run's.
      timesteps: weights of the levels.
      counts: targets at each level, coarsest first.
    """
    tables = stage_tables(scheduler)
    points = pyramid_points(latents, draws.noise, scheduler)
    targets = []
    for level, count in enumerate(counts):
        start, end = points[level]
        sigmas = jnp.asarray(tables[level].sigmas, jnp.float32)
        times = jnp.asarray(tables[level].timesteps, jnp.float32)
        for _ in range(count):
            place = draws.index[len(targets)]
            sigma = sigmas[place]
            noisy = sigma * start + (1 - sigma) * end
            weight = level_weight(timesteps, sigma)
            targets.append(DenoisingTarget(noisy, times[place], start - end, weight))
    return targets


def items(config: TrainConfig) -> int:
    """Targets of a sample."""
    return sum(config.pyramid_items)


def levels(config: TrainConfig) -> tuple[int, ...]:
    """Targets of a sample at each level, coarsest first."""
    return config.pyramid_items


def sample_targets(
    latents: Float[Array, "T H W C"], draws: FlowDraws, config: TrainConfig
) -> list[DenoisingTarget]:
    """The targets of a sample in a run."""
    scheduler = config.model.scheduler
    return pyramid_targets(latents, draws, scheduler, config.timesteps, levels(config))


def make_targets(batch: TrainBatch, config: TrainConfig) -> DenoisingBatch:
    """The targets of a batch in a run."""
    draws = draw_denoising(config, batch, items(config))
    return denoising_batch(batch, draws, config, sample_targets)


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, frozen, batch) -> losses``."""
    return make_denoising_loss(make_targets, config)


def check(config: TrainConfig) -> None:
    """Check the numbers of targets.

    Raises:
      ConfigError: if there is not one for each level, or none at all.
    """
    stages = config.model.scheduler.stages
    counts = config.pyramid_items
    if len(counts) != stages:
        raise ConfigError(
            f"pyramid_items needs a number for each of the {stages} stages of model.scheduler"
        )
    if not any(counts) or min(counts) < 0:
        raise ConfigError(f"pyramid_items={counts} must be whole numbers that are not all 0")
    if config.timesteps.dynamic_shift:
        raise ConfigError(
            "timesteps.dynamic_shift is for the objective 'flow': pyramid levels have ranges of "
            "time of their own"
        )


def cost(config: TrainConfig, trainable: Params, batch: TrainBatch) -> StepCost:
    """Tokens and operations of a sample."""
    return step_cost(config, trainable, batch.target.shape[1:4], levels(config))


OBJECTIVE = Objective(
    component="transformer",
    load=load_records,
    abstract_batch=abstract_records,
    make_step=descend_on(make_loss),
    make_validation=validate_loss(make_loss),
    cost=cost,
    make_targets=make_targets,
    items=items,
    levels=levels,
    check=check,
)
