"""helios-nano Distilled, stage 3, second half: distribution matching with Base as teacher, two
steps a stage, without guidance.

  helios-jax train --config nano/distilled --config.checkpoint=checkpoints/nano-ode \\
      --config.critic.checkpoint=checkpoints/nano-base --config.data.train=data/nano
  helios-jax export --run runs/distilled --out checkpoints/nano-distilled

The rate is small: at 1e-4, learning at every second step, the student lost much of what its
teacher's trajectories had taught it.
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.nano import ode
from helios_jax.configs.nano._model import ALL_WEIGHTS
from helios_jax.configs.train import stage1_init
from helios_jax.training.config import (
    AdversarialConfig,
    CriticConfig,
    DistillationConfig,
    EMAConfig,
    TrainConfig,
)
from helios_jax.training.levels import LevelConfig
from helios_jax.training.optimizer import OptimizerConfig

CRITIC = CriticConfig(
    trainable=ALL_WEIGHTS,
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.0, b2=0.99, weight_decay=0.01),
)


def recipe() -> TrainConfig:
    """Distribution matching, then with a discriminator on three of the critic's blocks."""
    config = ode.recipe()
    return dataclasses.replace(
        config,
        objective="distillation",
        task=stage1_init.TASK["corrected"],
        corruption=stage1_init.CORRUPTION["corrected"],
        critic=CRITIC,
        optimizer=OptimizerConfig(learning_rate=1e-5, b1=0.0, b2=0.99, weight_decay=0.01),
        distillation=DistillationConfig(
            guidance_scale=5.0,
            student_every=3,
            levels=LevelConfig(uniform_after=50),
            adversarial=AdversarialConfig(width=32, hooks=(1, 3, 5), start=300),
        ),
        data=dataclasses.replace(config.data, batch_size=8),
        ema=EMAConfig(decay=0.98, start=60),
        steps=900,
    )


def get_config():
    return to_config_dict(recipe())
