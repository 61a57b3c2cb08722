"""Stage 1, second half: on from the merged first half, with new adapters. What comes out is
Helios-Base. Published: 7,500 steps of 128 clips.

python train.py --config configs/train/stage1_post.py --config.checkpoint=checkpoints/stage1_init --config.data.train=data/clips
"""

from helios_jax.configs.train import stage1_init


def get_config(variant: str = "published"):
    config = stage1_init.get_config(variant)
    config.optimizer.learning_rate = 3e-5
    config.steps = 7500
    config.seed = 44
    return config
