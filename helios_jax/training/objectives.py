"""The objectives by name. To add one, write its file and enter it in the table."""

import contextlib
import itertools

import jax

from helios_jax.config import ConfigError
from helios_jax.data.loading import Batch, Batches
from helios_jax.training import distillation, flow, ode, pyramid, reading, reconstruction
from helios_jax.training.config import TrainConfig
from helios_jax.training.objective import Objective

OBJECTIVES: dict[str, Objective] = {
    "flow": flow.OBJECTIVE,
    "pyramid": pyramid.OBJECTIVE,
    "ode": ode.OBJECTIVE,
    "distillation": distillation.OBJECTIVE,
    "reconstruction": reconstruction.OBJECTIVE,
    "reading": reading.OBJECTIVE,
}


def find_objective(config: TrainConfig) -> Objective:
    """The objective of a run, which can have it.

    Raises:
      ConfigError: if there is none of that name, or the run does not fit it.
    """
    if config.objective not in OBJECTIVES:
        raise ConfigError(
            f"objective={config.objective!r} is unknown; there are {', '.join(OBJECTIVES)}"
        )
    objective = OBJECTIVES[config.objective]
    objective.check(config)
    return objective


def load_data(config: TrainConfig) -> tuple[Batches, list[Batch]]:
    """The training batches, and those of the validation; this process's rows.

    Raises:
      ConfigError, DataError: if there are none, or they do not fit the model.
    """
    load = find_objective(config).load
    options = config.data.loader(jax.process_index(), jax.process_count())
    batches = load(config, "train", options)
    if not config.validation.every:
        return batches, []
    with contextlib.closing(load(config, "validation", options)) as validation:
        return batches, list(itertools.islice(validation, config.validation.batches))
