"""Stage 3, second half with a discriminator: as stage3_post, on histories that are blurred now and
then, too, and adversarial from step 1,000 on.

  helios-jax train --config train/stage3_gan --config.checkpoint=checkpoints/stage3_ode \\
      --config.critic.checkpoint=checkpoints/helios-base --config.data.train=data/clips

The published settings cannot start as they stand; these are what they mean. The paper's penalty
weighs 1, its implementation's 100, as here.
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.train import stage3_post
from helios_jax.training.config import AdversarialConfig, TrainConfig

ADVERSARIAL = AdversarialConfig(width=768, hooks=(5, 15, 25, 35), start=1000)


def recipe() -> TrainConfig:
    """As stage3_post, with a discriminator on the critic's features."""
    config = stage3_post.recipe("corrected")
    distillation = dataclasses.replace(config.distillation, adversarial=ADVERSARIAL)
    return dataclasses.replace(config, distillation=distillation)


def get_config():
    return to_config_dict(recipe())
