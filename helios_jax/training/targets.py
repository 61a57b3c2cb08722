"""What a velocity network learns from: a noisy point between data and noise, and its velocity
(flow matching, Lipman et al. 2023).

Here is what the objectives share; each has its own points in its own file. Everything is of one
sample, without a batch axis; draws are apart from their use.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.fields import Checked, Finite, NonNegative
from helios_jax.types import Array, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestepConfig(Checked):
    """Which noise levels are learned, and how much each counts.

    Attributes:
      density: of the position u on the table of levels, 0 being the noisiest: logit-normal,
        ``mode`` (Esser et al. 2024, eq. 20) or uniform.
      logit_mean, logit_std: of the logit-normal density; the smaller the mean, the more noise.
      mode_scale: of the mode density.
      weighting: of the loss: 1, sigma^-2, or 2 / (pi (1 - 2 sigma + 2 sigma^2)).
      dynamic_shift: shift levels by the number of tokens as the scheduler does when it samples; for
        the objective ``"flow"`` only.
    """

    section = "timesteps"

    density: Literal["logit_normal", "mode", "uniform"] = "logit_normal"
    logit_mean: Finite = 0.0
    logit_std: NonNegative = 1.0
    mode_scale: Finite = 1.29
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    dynamic_shift: bool = False


class FlowDraws(NamedTuple):
    """All that is random about the noisy points of a sample.

    Attributes:
      noise: unit noise at full resolution.
      index: place of each target's noise level in its table of 1000.
    """

    noise: Float[Array, "T H W C"]
    index: Int[Array, "items"]


class DenoisingTarget(NamedTuple):
    """A noisy point, and the velocity that is learned there.

    Attributes:
      noisy: the network's input.
      timestep: of its noise level, as the network takes it.
      velocity: the output that is learned.
      weight: in the loss.
    """

    noisy: Float[Array, "T h w C"]
    timestep: Float[Array, ""]
    velocity: Float[Array, "T h w C"]
    weight: Float[Array, ""]


def draw_flow(
    key: PRNGKeyArray, config: TimestepConfig, shape: tuple[int, int, int, int], items: int
) -> FlowDraws:
    """Draw the noise of a sample, which its targets share, and their noise levels.

    Args:
      key: of the sample.
      config: density of the levels.
      shape: (T, H, W, C) of the sample.
      items: number of targets.
    """
    noise_key, level_key = jax.random.split(key)
    if config.density == "logit_normal":
        normal = jax.random.normal(level_key, (items,))
        u = jax.nn.sigmoid(config.logit_mean + config.logit_std * normal)
    else:
        u = jax.random.uniform(level_key, (items,))
        if config.density == "mode":
            u = 1 - u - config.mode_scale * (jnp.cos(jnp.pi * u / 2) ** 2 - 1 + u)
    index = jnp.clip(jnp.floor(u * 1000), 0, 999).astype(jnp.int32)
    return FlowDraws(jax.random.normal(noise_key, shape), index)


def level_weight(config: TimestepConfig, sigma: Float[Array, ""]) -> Float[Array, ""]:
    """The weight of a noise level in the loss."""
    if config.weighting == "sigma_sqrt":
        return sigma**-2
    if config.weighting == "cosmap":
        return 2 / (jnp.pi * (1 - 2 * sigma + 2 * sigma**2))
    return jnp.ones_like(sigma)
