"""What can be learned, and the loop that learns it.

``train(config, folder)`` of :mod:`.loop` trains from Python; an objective is a file and an entry in
:mod:`.objectives`.
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names

if TYPE_CHECKING:
    from helios_jax.training.checkpoints import Checkpoints
    from helios_jax.training.config import TrainConfig
    from helios_jax.training.distillation import dmd_gradient
    from helios_jax.training.loop import train
    from helios_jax.training.objectives import OBJECTIVES, find_objective, load_data
    from helios_jax.training.optimizer import make_optimizer
    from helios_jax.training.rollout import rollout
    from helios_jax.training.step import TrainState

_HOMES = {
    "Checkpoints": "checkpoints",
    "OBJECTIVES": "objectives",
    "TrainConfig": "config",
    "TrainState": "step",
    "dmd_gradient": "distillation",
    "find_objective": "objectives",
    "load_data": "objectives",
    "make_optimizer": "optimizer",
    "rollout": "rollout",
    "train": "loop",
}
"""The module of each public name."""

__all__ = [
    "OBJECTIVES",
    "Checkpoints",
    "TrainConfig",
    "TrainState",
    "dmd_gradient",
    "find_objective",
    "load_data",
    "make_optimizer",
    "rollout",
    "train",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
