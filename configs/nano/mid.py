"""helios-nano Mid, stage 2: from Base to a pyramid of three resolutions, all weights trained.

  helios-jax train --config nano/mid --config.checkpoint=checkpoints/nano-base \\
      "--config.data.train=('data/nano','data/nano','data/nano-sections')" \\
      --config.data.validation=data/nano-heldout
  helios-jax export --run runs/mid --out checkpoints/nano-mid

Motion is decided at the coarse levels. At the coarsest, velocities are a third as long and an item
counts a ninth: there are more of them.
"""

import dataclasses

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano import base
from helios_jax.configs.nano._model import PYRAMID, adamw, model
from helios_jax.training.config import TrainConfig
from helios_jax.training.targets import TimestepConfig

SAMPLE = SampleConfig(
    height=64,
    width=128,
    num_frames=99,
    steps=(20, 20, 20),
    guidance_scale=5.0,
    cfg_zero_star=True,
    zero_init_steps=2,
)


def recipe() -> TrainConfig:
    """As base, at every level of the pyramid."""
    config = base.recipe()
    return dataclasses.replace(
        config,
        objective="pyramid",
        model=model(PYRAMID, SAMPLE),
        pyramid_items=(4, 2, 1),
        timesteps=TimestepConfig(density="uniform"),
        optimizer=adamw(1e-3, decay_steps=6000),
        steps=6000,
    )


def get_config():
    return to_config_dict(recipe())
