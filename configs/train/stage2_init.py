"""Stage 2, first half: from Helios-Base to the pyramid of three resolutions.

  helios-jax train --config train/stage2_init --config.checkpoint=checkpoints/helios-base \\
      --config.data.train=data/clips

Published: 16,000 steps of 64 clips, one on each of 64 GPUs.
"""

import dataclasses

from helios_jax.config import HeliosConfig, SampleConfig, TransformerConfig, to_config_dict
from helios_jax.configs.train import stage1_init
from helios_jax.data.batches import DataConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import TrainableConfig, TrainConfig
from helios_jax.training.targets import TimestepConfig


def recipe(variant: str = "published") -> TrainConfig:
    """Flow matching at every level of the pyramid, two items of the middle one."""
    config = stage1_init.recipe(variant)
    return dataclasses.replace(
        config,
        objective="pyramid",
        model=HeliosConfig(
            transformer=TransformerConfig(remat="blocks"),
            sample=SampleConfig(
                num_frames=99,
                steps=(20, 20, 20),
                guidance_scale=5.0,
                cfg_zero_star=True,
                zero_init_steps=2,
            ),
        ),
        pyramid_items=(1, 2, 1),
        timesteps=TimestepConfig(density="uniform"),
        trainable=TrainableConfig(rank=256, lora=LINEARS),
        optimizer=dataclasses.replace(
            config.optimizer,
            learning_rate=1e-4,
            schedule="constant_with_warmup",
            warmup_steps=1000,
        ),
        data=DataConfig(batch_size=1),
        steps=16000,
        seed=45,
    )


def get_config(variant: str = "published"):
    return to_config_dict(recipe(variant))
