"""Noise levels at which distribution matching compares the real and the fake score; a flow is
learned at others (:mod:`~helios_jax.training.targets`).
"""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.schedules import dynamic_shift
from helios_jax.fields import Checked, ConfigError, Count, Positive, Range
from helios_jax.types import Array, Float, Int, PRNGKeyArray

Timestep = Annotated[int, Range(0, 1000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelConfig(Checked):
    """Density of the noise levels at which the scores are compared.

    Attributes:
      beta: parameters of the beta density of the student's levels at first, from 0, clean, to 1,
        noise.
      uniform_after: steps in which it becomes uniform, by half a cosine; the critic's is uniform
        always.
      bounds: least and greatest timestep.
    """

    section = "distillation.levels"

    beta: tuple[Positive, Positive] = (4.0, 1.5)
    uniform_after: Count = 500
    bounds: tuple[Timestep, Timestep] = (20, 980)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds[0] > self.bounds[1]:
            raise ConfigError(f"distillation.levels.bounds={self.bounds} must not fall")


class ScoreLevels(NamedTuple):
    """The noise levels of the teacher's clips.

    Attributes:
      shift: that the clips' size sets.
      sigma: level of each whole timestep, float64.
    """

    shift: float
    sigma: Float[np.ndarray, "1001"]


def score_levels(scheduler: SchedulerConfig, tokens: int) -> ScoreLevels:
    """The levels 1, 0.999, ..., 0.001, shifted linearly by the number of tokens; each timestep has
    the nearest of them.
    """
    linear = dataclasses.replace(scheduler, use_dynamic_shifting=True, time_shift_type="linear")
    sigma = dynamic_shift(linear, np.linspace(1, 0.001, 1000), tokens)
    middle = float(dynamic_shift(linear, np.array([0.5]), tokens)[0])
    nearest = np.abs(1000 * sigma[:, None] - np.arange(1001)).argmin(0)
    return ScoreLevels(middle / (1 - middle), sigma[nearest])


def student_density(
    config: LevelConfig, step: Int[Array, ""] | int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Parameters of the beta density of the student's levels after ``step`` steps."""
    progress = jnp.minimum(jnp.asarray(step, jnp.float32) / config.uniform_after, 1.0)
    left = 0.5 * (1 + jnp.cos(jnp.pi * progress))
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
    timestep = jnp.clip(1000 * shift * q / (1 + (shift - 1) * q), *config.bounds)
    return jnp.round(timestep).astype(jnp.int32)
