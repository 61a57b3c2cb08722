"""Stage 2, second half: on from the merged first half, patches included. What comes out is
Helios-Mid. Published: 20,000 steps of 64 clips.

python train.py --config configs/train/stage2_post.py --config.checkpoint=checkpoints/stage2_init --config.data.train=data/clips
"""

from helios_jax.configs.train import stage2_init
from helios_jax.models.lora import LINEARS


def get_config(variant: str = "published"):
    config = stage2_init.get_config(variant)
    config.pyramid_items = (1, 1, 1)
    config.trainable.lora = f"{LINEARS}|patch_.*"
    config.optimizer.learning_rate = 3e-5
    config.optimizer.warmup_steps = 500
    config.steps = 20000
    config.seed = 46
    return config
