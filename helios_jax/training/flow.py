"""Stage 1: one flow from noise to data, at full resolution (Lipman et al. 2023)."""

import jax.numpy as jnp
import numpy as np

from helios_jax.config import ConfigError, SchedulerConfig
from helios_jax.data.batches import TrainBatch
from helios_jax.diffusion.noise import mix
from helios_jax.diffusion.pyramid import stage_tokens
from helios_jax.diffusion.schedules import dynamic_shift
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


def flow_table(
    scheduler: SchedulerConfig, timesteps: TimestepConfig, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels and timesteps of the flow, from the noisiest on; float64.

    Levels are 1, 0.999, ..., 0.001, shifted by the number of tokens where
    ``timesteps.dynamic_shift`` asks for it.
    """
    N = scheduler.num_train_timesteps
    sigma = np.arange(N, 0, -1) / N
    if timesteps.dynamic_shift:
        sigma = dynamic_shift(scheduler, sigma, tokens)
    return sigma, N * sigma


def flow_targets(
    latents: Float[Array, "T H W C"],
    draws: FlowDraws,
    scheduler: SchedulerConfig,
    timesteps: TimestepConfig,
    tokens: int,
) -> list[DenoisingTarget]:
    """The point ``(1 - sigma) x + sigma noise`` of a sample, whose velocity is ``noise - x``.

    Args:
      latents: x.
      draws: noise, and the place of sigma in the table.
      scheduler: the run's.
      timesteps: density and weights of the levels.
      tokens: noisy tokens of the sample.
    """
    sigmas, times = flow_table(scheduler, timesteps, tokens)
    place = draws.index[0]
    sigma = jnp.asarray(sigmas, jnp.float32)[place]
    timestep = jnp.asarray(times, jnp.float32)[place]
    noisy = mix(latents, draws.noise, sigma)
    velocity = draws.noise - latents
    return [DenoisingTarget(noisy, timestep, velocity, level_weight(timesteps, sigma))]


def sample_targets(
    latents: Float[Array, "T H W C"], draws: FlowDraws, config: TrainConfig
) -> list[DenoisingTarget]:
    """The target of a sample in a run."""
    T, H, W, _ = latents.shape
    [tokens] = stage_tokens((T, H, W), 1, config.model.transformer.patch_size)
    return flow_targets(latents, draws, config.model.scheduler, config.timesteps, tokens)


def make_targets(batch: TrainBatch, config: TrainConfig) -> DenoisingBatch:
    """The targets of a batch in a run."""
    draws = draw_denoising(config, batch, items=1)
    return denoising_batch(batch, draws, config, sample_targets)


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, frozen, batch) -> losses``."""
    return make_denoising_loss(make_targets, config)


def check(config: TrainConfig) -> None:
    """Refuse more than one resolution.

    Raises:
      ConfigError: if the scheduler has several stages.
    """
    stages = config.model.scheduler.stages
    if stages != 1:
        raise ConfigError(
            f"the objective 'flow' trains one resolution, but model.scheduler.stages is {stages}"
        )


def cost(config: TrainConfig, trainable: Params, batch: TrainBatch) -> StepCost:
    """Tokens and operations of a sample."""
    return step_cost(config, trainable, batch.target.shape[1:4], levels=(1,))


OBJECTIVE = Objective(
    component="transformer",
    load=load_records,
    abstract_batch=abstract_records,
    make_step=descend_on(make_loss),
    make_validation=validate_loss(make_loss),
    cost=cost,
    make_targets=make_targets,
    check=check,
)
