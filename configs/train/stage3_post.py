"""Stage 3, second half: distribution matching with Helios-Base as teacher; what comes out is
Helios-Distilled. Published: 2,250 steps of 128 clips.

  python train.py --config configs/train/stage3_post.py --config.checkpoint=checkpoints/stage3_ode \\
      --config.critic.checkpoint=checkpoints/helios-base --config.data.train=data/clips

The critic moves at every step, the student at every fifth; its average begins after 750 steps, 150
of the student's own. The frozen blocks of both models stay in host memory, as in stage3_ode.
"""

from helios_jax.config import to_config_dict
from helios_jax.configs.train import stage1_init, stage3_ode
from helios_jax.diffusion.corruption import CorruptionConfig, TaskConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import CriticConfig, DistillationConfig, TrainableConfig
from helios_jax.training.optimizer import OptimizerConfig

CORRUPTION = stage1_init.CORRUPTION | {
    "published": CorruptionConfig(clean=0.1, noise=1.0, blur=0.0, saturation=True)
}
CRITIC = CriticConfig(
    trainable=TrainableConfig(rank=256, lora=LINEARS),
    optimizer=OptimizerConfig(
        learning_rate=4e-7, b1=0.0, b2=0.999, weight_decay=1e-3, clip_norm=1.0
    ),
)


def get_config(variant: str = "published"):
    config = stage3_ode.get_config()
    config.objective = "distillation"
    config.task = to_config_dict(TaskConfig(text=0.4, image=0.0, video=0.5))
    config.corruption = to_config_dict(CORRUPTION[variant])
    config.critic = to_config_dict(CRITIC)
    config.distillation = to_config_dict(DistillationConfig(guidance_scale=4.0, student_every=5))
    config.ema.start = 150
    config.steps = 2250
    config.seed = 49
    return config
