"""Stage 1, second half: on from the merged first half, with new adapters.

  helios-jax train --config train/stage1_post --config.checkpoint=checkpoints/stage1_init \\
      --config.data.train=data/clips

What comes out is Helios-Base. Published: 7,500 steps of 128 clips.
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.train import stage1_init
from helios_jax.training.config import TrainConfig


def recipe(variant: str = "published") -> TrainConfig:
    """As stage1_init, with a smaller learning rate."""
    config = stage1_init.recipe(variant)
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=3e-5),
        steps=7500,
        seed=44,
    )


def get_config(variant: str = "published"):
    return to_config_dict(recipe(variant))
