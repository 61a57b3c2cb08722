"""Stage 2, second half: on from the merged first half, patches included.

  helios-jax train --config train/stage2_post --config.checkpoint=checkpoints/stage2_init \\
      --config.data.train=data/clips

What comes out is Helios-Mid. Published: 20,000 steps of 64 clips.
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.train import stage2_init
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import TrainConfig


def recipe(variant: str = "published") -> TrainConfig:
    """As stage2_init, with adapters of the patches, too, and one item of every level."""
    config = stage2_init.recipe(variant)
    return dataclasses.replace(
        config,
        pyramid_items=(1, 1, 1),
        trainable=dataclasses.replace(config.trainable, lora=f"{LINEARS}|patch_.*"),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=3e-5, warmup_steps=500),
        steps=20000,
        seed=46,
    )


def get_config(variant: str = "published"):
    return to_config_dict(recipe(variant))
