"""What the objectives of a few-step student share."""

from collections.abc import Sequence

import jax

from helios_jax.config import ConfigError
from helios_jax.data.loading import Batch
from helios_jax.training.config import TrainConfig
from helios_jax.types import Params

SHIFT_FIELDS = (
    "shift_tokens",
    "base_image_seq_len",
    "max_image_seq_len",
    "base_shift",
    "max_shift",
)
"""Fields of the scheduler that set its dynamic shift. A student's are its checkpoint's: the steps
it learns and the steps it is sampled with come from one table.
"""


def check_student(config: TrainConfig) -> None:
    """Check the recipe of a student.

    Raises:
      ConfigError: if its solver is not DMD's.
    """
    solver = config.model.scheduler.solver
    if solver != "dmd":
        raise ConfigError(f"a student's model.scheduler.solver is 'dmd', not {solver!r}")


def one_item_a_stage(config: TrainConfig) -> tuple[int, ...]:
    """Noisy inputs at each level: one."""
    return (1,) * config.model.scheduler.stages


def no_validation(config: TrainConfig, sharding: jax.sharding.Sharding | None = None):
    """A student is judged by the videos it makes (``validation.videos_every``): its losses say
    little.
    """

    def validate(trainable: Params, frozen: Params, batches: Sequence[Batch]) -> dict[str, float]:
        return {}

    return validate
