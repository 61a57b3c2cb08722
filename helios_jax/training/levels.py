"""Noise levels at which a student is compared with its teacher (DMD), apart from those that a flow
is learned at.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import ConfigError, SchedulerConfig
from helios_jax.diffusion.schedules import dynamic_shift
from helios_jax.types import Array, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """At which noise levels student and teacher are compared.

    Attributes:
      beta: parameters of the density of the student's levels at first, from 0, clean, to 1, noise.
      uniform_after: steps in which it becomes uniform, by half a cosine; the critic's is uniform
        always.
      bounds: least and greatest timestep.
    """

    beta: tuple[float, float] = (4.0, 1.5)
    uniform_after: int = 500
    bounds: tuple[int, int] = (20, 980)

    def __post_init__(self):
        if (
            min(self.beta) <= 0
            or self.uniform_after < 1
            or not 0 <= self.bounds[0] <= self.bounds[1] <= 1000
        ):
            raise ConfigError(f"{self} is no density of noise levels")


class Levels(NamedTuple):
    """The noise levels of the teacher's clips: the shift that their size sets, and the level of
    each whole timestep, in float64.
    """

    shift: float
    sigma: Float[np.ndarray, "1001"]


def make_levels(scheduler: SchedulerConfig, tokens: int) -> Levels:
    """The levels 1, 0.999, ..., 0.001, shifted linearly by the number of tokens; each timestep has
    the nearest of them.
    """
    linear = dataclasses.replace(scheduler, use_dynamic_shifting=True, time_shift_type="linear")
    sigma = dynamic_shift(linear, np.linspace(1, 0.001, 1000), tokens)
    middle = float(dynamic_shift(linear, np.array([0.5]), tokens)[0])
    return Levels(
        middle / (1 - middle), sigma[np.abs(1000 * sigma[:, None] - np.arange(1001)).argmin(0)]
    )


def density(
    config: LevelConfig, step: Int[Array, ""] | int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Parameters of the beta density of the student's levels after ``step`` steps."""
    left = 0.5 * (
        1
        + jnp.cos(jnp.pi * jnp.minimum(jnp.asarray(step, jnp.float32) / config.uniform_after, 1.0))
    )
    a, b = (1 + (value - 1) * left for value in config.beta)
    return a, b


def draw_timestep(
    key: PRNGKeyArray,
    config: LevelConfig,
    shift: float,
    a: Float[Array, ""] | float = 1.0,
    b: Float[Array, ""] | float = 1.0,
) -> Int[Array, ""]:
    """A whole timestep of density beta(a, b), shifted to the noisy end where ``shift`` is more than
    1.
    """
    q = jax.random.beta(key, a, b)
    shift = max(shift, 1.0)
    return jnp.round(jnp.clip(1000 * shift * q / (1 + (shift - 1) * q), *config.bounds)).astype(
        jnp.int32
    )


def add_noise(
    latents: Float[Array, "B T H W C"], noise: Float[Array, "B T H W C"], sigma: Float[Array, "B"]
) -> Float[Array, "B T H W C"]:
    """``(1 - sigma) x + sigma noise``."""
    sigma = sigma[:, None, None, None, None]
    return (1 - sigma) * latents + sigma * noise
