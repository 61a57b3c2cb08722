"""Stage 3, second half with a discriminator: as stage3_post, on histories that are blurred now and
then, too, and from step 1,000 on adversarial.

  python train.py --config configs/train/stage3_gan.py --config.checkpoint=checkpoints/stage3_ode \\
      --config.critic.checkpoint=checkpoints/helios-base --config.data.train=data/clips

The published settings cannot start as they stand; these are what they mean. The paper's penalty
weighs 1, its implementation's 100, as here.
"""

from helios_jax.config import to_config_dict
from helios_jax.configs.train import stage3_post
from helios_jax.training.config import AdversarialConfig


def get_config():
    config = stage3_post.get_config("corrected")
    config.distillation.adversarial = to_config_dict(
        AdversarialConfig(width=768, hooks=(5, 15, 25, 35), start=1000)
    )
    return config
