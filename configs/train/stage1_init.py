"""Stage 1, first half: from Wan 2.1 T2V 14B, which sees no history, to a model that continues one.

  helios-jax train --config train/stage1_init --config.checkpoint=checkpoints/wan2.1 \\
      --config.data.train=data/clips --run runs/stage1_init

The published run: 5,500 steps of 128 clips, two on each of 64 GPUs. `train/stage1_init:corrected`
is the same with the corruption that its authors recommend for all stages; the recipes of stages 1
and 2 all have both variants.
"""

from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TransformerConfig,
    to_config_dict,
)
from helios_jax.data.batches import DataConfig
from helios_jax.diffusion.corruption import CorruptionConfig, TaskConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import TrainableConfig, TrainConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig

TASK = {
    "published": TaskConfig(text=0.4, image=0.0, video=0.4),
    "corrected": TaskConfig(text=0.4, image=0.1, video=0.4),
}
CORRUPTION = {
    "published": CorruptionConfig(clean=0.1, noise=1.0, blur=0.0, saturation=False),
    "corrected": CorruptionConfig(clean=0.1, noise=0.9, blur=0.1, saturation=True),
}


def recipe(variant: str = "published") -> TrainConfig:
    """Flow matching at one resolution; adapters, and the history patches in full.

    Args:
      variant: a key of :data:`TASK`.
    """
    return TrainConfig(
        objective="flow",
        model=HeliosConfig(
            transformer=TransformerConfig(remat="attention"),
            scheduler=SchedulerConfig(stages=1, stage_range=(0.0, 1.0)),
            sample=SampleConfig(num_frames=99, steps=(50,), guidance_scale=5.0),
        ),
        task=TASK[variant],
        corruption=CORRUPTION[variant],
        timesteps=TimestepConfig(density="logit_normal"),
        trainable=TrainableConfig(
            rank=128, lora=f"{LINEARS}|patch_embedding", full="patch_(short|mid|long)/.*"
        ),
        optimizer=OptimizerConfig(
            learning_rate=5e-5,
            schedule="constant",
            b1=0.9,
            b2=0.999,
            weight_decay=1e-4,
            clip_norm=1.0,
        ),
        data=DataConfig(batch_size=2),
        steps=5500,
        seed=43,
        save_every=500,
    )


def get_config(variant: str = "published"):
    return to_config_dict(recipe(variant))
