"""Stage 3, first half: from Helios-Mid to a student of two steps a stage, on its teacher's
trajectories.

  helios-jax ode-pairs --checkpoint checkpoints/helios-mid --prompt_file prompts.txt --out data/ode
  helios-jax train --config train/stage3_ode --config.checkpoint=checkpoints/helios-mid \\
      --config.data.train=data/ode

Published: 3,759 steps of 128 videos. The published run clips gradients at 10 in its settings and at
1 in effect. Its timesteps are those of a stage's own grid; for a teacher whose scheduler says
otherwise add --config.model.scheduler.shift_tokens=previous_stage, here and in what follows. Frozen
blocks stay in host memory, so that one GPU of 80 GB holds the rest; where parameters are spread
over several, add --config.offload=False.
"""

from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TransformerConfig,
    to_config_dict,
)
from helios_jax.data.batches import DataConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import DistillationConfig, EMAConfig, TrainableConfig, TrainConfig
from helios_jax.training.optimizer import OptimizerConfig


def recipe() -> TrainConfig:
    """Regression to the ends of a teacher's stages."""
    return TrainConfig(
        objective="ode",
        model=HeliosConfig(
            transformer=TransformerConfig(remat="attention"),
            scheduler=SchedulerConfig(
                solver="dmd", time_shift_type="linear", shift_tokens="own_stage"
            ),
            sample=SampleConfig(
                num_frames=240, steps=(2, 2, 2), guidance_scale=1.0, amplify_first_chunk=True
            ),
        ),
        trainable=TrainableConfig(rank=256, lora=f"{LINEARS}|patch_(short|mid|long)"),
        optimizer=OptimizerConfig(
            learning_rate=2e-6, b1=0.0, b2=0.999, weight_decay=1e-3, clip_norm=1.0
        ),
        distillation=DistillationConfig(regression_weight=80.0),
        ema=EMAConfig(decay=0.99, start=250),
        data=DataConfig(batch_size=1),
        steps=3759,
        seed=47,
        offload=True,
        save_every=250,
    )


def get_config():
    return to_config_dict(recipe())
