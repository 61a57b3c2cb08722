"""helios-nano Distilled, stage 3, first half: from Mid to a student of two steps a stage, on its
teacher's trajectories.

  helios-jax ode-pairs --checkpoint checkpoints/nano-mid --world=480 --sections=2 \\
      --out data/nano-ode
  helios-jax train --config nano/ode --config.checkpoint=checkpoints/nano-mid \\
      --config.data.train=data/nano-ode
  helios-jax export --run runs/ode --out checkpoints/nano-ode
"""

import dataclasses

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano._model import ALL_WEIGHTS, PYRAMID, adamw, model
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import DistillationConfig, EMAConfig, TrainConfig

STUDENT = dataclasses.replace(PYRAMID, solver="dmd", time_shift_type="linear")

SAMPLE = SampleConfig(
    height=64,
    width=128,
    num_frames=99,
    steps=(2, 2, 2),
    guidance_scale=1.0,
    amplify_first_chunk=True,
)


def recipe() -> TrainConfig:
    """Regression to the ends of a teacher's stages."""
    return TrainConfig(
        objective="ode",
        model=model(STUDENT, SAMPLE),
        trainable=ALL_WEIGHTS,
        optimizer=adamw(3e-4, decay_steps=2000),
        distillation=DistillationConfig(regression_weight=2.0),
        ema=EMAConfig(decay=0.99),
        data=DataConfig(batch_size=16, text_rows=64, read_threads=1),
        steps=2000,
        dtype="float32",
        log_every=20,
        save_every=100,
    )


def get_config():
    return to_config_dict(recipe())
