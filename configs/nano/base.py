"""helios-nano Base, stage 1: from a text-to-video model without a history to one that continues its
own, all weights trained.

  helios-jax train --config nano/base --config.checkpoint=checkpoints/nano-wan \\
      "--config.data.train=('data/nano','data/nano','data/nano-sections')" \\
      --config.data.validation=data/nano-heldout
  helios-jax export --run runs/base --out checkpoints/nano-base

Clips that are long enough to have a history count twice; the others keep alive what was learned
from many scenes.
"""

import dataclasses

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano import t2v
from helios_jax.configs.nano._model import ALL_WEIGHTS, ONE_STAGE, adamw, model
from helios_jax.configs.train import stage1_init
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainConfig, ValidationConfig

TASK = dataclasses.replace(stage1_init.TASK["corrected"], text=0.1)
"""More than half of what is drawn has no history to drop."""

TIMESTEPS = dataclasses.replace(t2v.TIMESTEPS, logit_mean=-0.5, logit_std=1.5)
"""Half of the levels are above 0.918. Where a thing goes is decided there; at low levels its place
can be seen, and little is learned of motion.
"""

SAMPLE = SampleConfig(
    height=64,
    width=128,
    num_frames=99,
    steps=(30,),
    guidance_scale=6.0,
    guidance_interval=(0.7, 1.0),
)
"""Guidance decides what is shown. That is settled at high noise levels; at low ones guidance only
leads away from the picture a video begins with (see the card).
"""


def recipe() -> TrainConfig:
    """Flow matching after corrupted histories."""
    return TrainConfig(
        objective="flow",
        model=model(ONE_STAGE, SAMPLE),
        task=TASK,
        corruption=stage1_init.CORRUPTION["corrected"],
        timesteps=TIMESTEPS,
        trainable=ALL_WEIGHTS,
        optimizer=adamw(1.5e-3, decay_steps=16000),
        ema=EMAConfig(decay=0.999),
        data=DataConfig(batch_size=8, text_rows=64, read_threads=1, min_sections=1),
        validation=ValidationConfig(every=500, batches=6),
        steps=16000,
        dtype="float32",
        log_every=20,
        save_every=100,
    )


def get_config():
    return to_config_dict(recipe())
