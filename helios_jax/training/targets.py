"""What the network is shown and what it is to answer: points between noise and data, and their
velocities (flow matching).

Stage 1 learns one flow from noise to data at full resolution. Stage 2 learns one flow a pyramid
level, each from a start point, which is noisier and blockier, to an end point, which the level
above begins with. Everything is of one sample, without a batch axis; draws are apart from their
use.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.pyramid import downsample, downsample_noise, upsample
from helios_jax.diffusion.schedules import dynamic_shift, stage_tables
from helios_jax.types import Array, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestepConfig:
    """Which noise levels are learned, and how much each counts.

    Attributes:
      density: of the position u on the table of levels, 0 being the noisiest: logit-normal,
        ``mode`` (Esser et al. 2024, eq. 20) or uniform.
      logit_mean, logit_std: of the logit-normal density; the smaller the mean, the more noise.
      mode_scale: of the mode density.
      weighting: of the loss: 1, sigma^-2, or 2 / (pi (1 - 2 sigma + 2 sigma^2)).
      dynamic_shift: shift levels by the number of tokens as the scheduler does when it samples;
        stage 1 only.
    """

    density: Literal["logit_normal", "mode", "uniform"] = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    dynamic_shift: bool = False


class FlowDraws(NamedTuple):
    """Unit noise at full resolution, and the place of each item's noise level in its table of 1000."""

    noise: Float[Array, "T H W C"]
    index: Int[Array, "items"]


class FlowItem(NamedTuple):
    """One question to the network, its answer, and how much it counts."""

    latents: Float[Array, "T h w C"]
    timestep: Float[Array, ""]
    velocity: Float[Array, "T h w C"]
    weight: Float[Array, ""]


def draw_flow(
    key: PRNGKeyArray, config: TimestepConfig, shape: tuple[int, int, int, int], items: int
) -> FlowDraws:
    """Draw the noise of a sample of ``shape`` (T, H, W, C), which its items share, and their noise
    levels.
    """
    noise, level = jax.random.split(key)
    if config.density == "logit_normal":
        u = jax.nn.sigmoid(
            config.logit_mean + config.logit_std * jax.random.normal(level, (items,))
        )
    else:
        u = jax.random.uniform(level, (items,))
        if config.density == "mode":
            u = 1 - u - config.mode_scale * (jnp.cos(jnp.pi * u / 2) ** 2 - 1 + u)
    return FlowDraws(
        jax.random.normal(noise, shape), jnp.clip(jnp.floor(u * 1000), 0, 999).astype(jnp.int32)
    )


def flow_table(
    scheduler: SchedulerConfig, timesteps: TimestepConfig, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels (1, 0.999, ..., 0.001), shifted where that is asked for, and the timesteps the
    network is told; float64.
    """
    N = scheduler.num_train_timesteps
    sigma = np.arange(N, 0, -1) / N
    if timesteps.dynamic_shift:
        sigma = dynamic_shift(scheduler, sigma, tokens)
    return sigma, N * sigma


def flow_items(
    latents: Float[Array, "T H W C"],
    draws: FlowDraws,
    scheduler: SchedulerConfig,
    timesteps: TimestepConfig,
    tokens: int,
) -> list[FlowItem]:
    """Stage 1: ``(1 - sigma) x + sigma noise``, whose velocity is ``noise - x``; ``tokens`` are
    those of the full resolution.
    """
    sigma, timestep = (
        jnp.asarray(table, jnp.float32)[draws.index[0]]
        for table in flow_table(scheduler, timesteps, tokens)
    )
    noised = (1 - sigma) * latents + sigma * draws.noise
    return [FlowItem(noised, timestep, draws.noise - latents, _weight(timesteps, sigma))]


def pyramid_items(
    latents: Float[Array, "T H W C"],
    draws: FlowDraws,
    scheduler: SchedulerConfig,
    timesteps: TimestepConfig,
    counts: tuple[int, ...],
) -> list[FlowItem]:
    """Stage 2: ``sigma start + (1 - sigma) end`` of each pyramid level, whose velocity is ``start -
    end``.

    ``counts`` items of each level, coarsest first. All share one noise, brought down to each level.
    """
    tables, items = stage_tables(scheduler), []
    ends = pyramid_points(latents, draws.noise, scheduler)
    levels = [level for level, count in enumerate(counts) for _ in range(count)]
    for level, index in zip(levels, draws.index):
        start, end = ends[level]
        sigma, timestep = (
            jnp.asarray(table, jnp.float32)[index]
            for table in (tables[level].sigmas, tables[level].timesteps)
        )
        items.append(
            FlowItem(
                sigma * start + (1 - sigma) * end, timestep, start - end, _weight(timesteps, sigma)
            )
        )
    return items


def pyramid_points(
    latents: Float[Array, "T H W C"], noise: Float[Array, "T H W C"], scheduler: SchedulerConfig
) -> list[tuple[Float[Array, "T _ _ C"], Float[Array, "T _ _ C"]]]:
    """Start and end point of every level, coarsest first.

    With s and e the level's start and end sigma: ``s noise + (1 - s) up(down(x))`` to ``e noise +
    (1 - e) x``, x and noise at the level's resolution. The coarsest level starts from noise alone.
    """
    data, noises = [latents[None]], [noise[None]]
    for _ in range(scheduler.stages - 1):
        data.insert(0, downsample(data[0]))
        noises.insert(0, downsample_noise(noises[0]))
    points = []
    for level, (table, x, n) in enumerate(zip(stage_tables(scheduler), data, noises)):
        start = (
            table.start_sigma * n + (1 - table.start_sigma) * upsample(data[level - 1])
            if level
            else n
        )
        points.append((start[0], (table.end_sigma * n + (1 - table.end_sigma) * x)[0]))
    return points


def _weight(timesteps: TimestepConfig, sigma: Float[Array, ""]) -> Float[Array, ""]:
    """The weight of a noise level in the loss."""
    if timesteps.weighting == "sigma_sqrt":
        return sigma**-2
    if timesteps.weighting == "cosmap":
        return 2 / (jnp.pi * (1 - 2 * sigma + 2 * sigma**2))
    return jnp.ones_like(sigma)
