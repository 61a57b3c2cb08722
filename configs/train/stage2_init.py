"""Stage 2, first half: from Helios-Base to the pyramid of three resolutions. Published: 16,000
steps of 64 clips, one on each of 64 GPUs.

python train.py --config configs/train/stage2_init.py --config.checkpoint=checkpoints/helios-base --config.data.train=data/clips
"""

from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TransformerConfig,
    to_config_dict,
)
from helios_jax.configs.train import stage1_init
from helios_jax.data.batches import DataConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import TrainableConfig, TrainConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig


def get_config(variant: str = "published"):
    return to_config_dict(
        TrainConfig(
            objective="pyramid",
            model=HeliosConfig(
                transformer=TransformerConfig(remat="blocks"),
                scheduler=SchedulerConfig(stages=3, gamma=1 / 3),
                sample=SampleConfig(
                    num_frames=99,
                    steps=(20, 20, 20),
                    guidance_scale=5.0,
                    cfg_zero_star=True,
                    zero_init_steps=2,
                ),
            ),
            pyramid_items=(1, 2, 1),
            task=stage1_init.TASK[variant],
            corruption=stage1_init.CORRUPTION[variant],
            timesteps=TimestepConfig(density="uniform"),
            trainable=TrainableConfig(rank=256, lora=LINEARS),
            optimizer=OptimizerConfig(
                learning_rate=1e-4,
                schedule="constant_with_warmup",
                warmup_steps=1000,
                b1=0.9,
                b2=0.999,
                weight_decay=1e-4,
                clip_norm=1.0,
            ),
            data=DataConfig(batch_size=1),
            steps=16000,
            seed=45,
            save_every=500,
        )
    )
