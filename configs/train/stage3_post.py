"""Stage 3, second half: distribution matching with Helios-Base as teacher.

  helios-jax train --config train/stage3_post --config.checkpoint=checkpoints/stage3_ode \\
      --config.critic.checkpoint=checkpoints/helios-base --config.data.train=data/clips

What comes out is Helios-Distilled. Published: 2,250 steps of 128 clips. The critic moves at every
step, the student at every fifth; its average begins after 750 steps, 150 of the student's own. The
frozen blocks of both models stay in host memory, as in stage3_ode.
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.train import stage1_init, stage3_ode
from helios_jax.diffusion.corruption import CorruptionConfig, TaskConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import (
    CriticConfig,
    DistillationConfig,
    TrainableConfig,
    TrainConfig,
)
from helios_jax.training.optimizer import OptimizerConfig

CORRUPTION = {
    "published": CorruptionConfig(clean=0.1, noise=1.0, blur=0.0, saturation=True),
    "corrected": stage1_init.CORRUPTION["corrected"],
}
CRITIC = CriticConfig(
    trainable=TrainableConfig(rank=256, lora=LINEARS),
    optimizer=OptimizerConfig(
        learning_rate=4e-7, b1=0.0, b2=0.999, weight_decay=1e-3, clip_norm=1.0
    ),
)


def recipe(variant: str = "published") -> TrainConfig:
    """Distribution matching, without a discriminator.

    Args:
      variant: a key of :data:`CORRUPTION`.
    """
    config = stage3_ode.recipe()
    return dataclasses.replace(
        config,
        objective="distillation",
        task=TaskConfig(text=0.4, image=0.0, video=0.5),
        corruption=CORRUPTION[variant],
        critic=CRITIC,
        distillation=DistillationConfig(guidance_scale=4.0, student_every=5),
        ema=dataclasses.replace(config.ema, start=150),
        steps=2250,
        seed=49,
    )


def get_config(variant: str = "published"):
    return to_config_dict(recipe(variant))
