"""The text encoder of helios-nano, from nothing: captions of the procedural world, and what they
say.

  helios-jax train --config nano/text
  helios-jax export --run runs/text --base checkpoints/nano-vae --out checkpoints/nano-parts \\
      --dtype bfloat16
"""

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano._model import ALL_WEIGHTS, ONE_STAGE, model, muon
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainConfig, ValidationConfig


def recipe() -> TrainConfig:
    """Questions about captions, answered from their features."""
    return TrainConfig(
        objective="reading",
        model=model(ONE_STAGE, SampleConfig(height=64, width=128, num_frames=33, steps=(20,))),
        trainable=ALL_WEIGHTS,
        optimizer=muon(2e-3, warmup_steps=50, decay_steps=1000),
        ema=EMAConfig(decay=0.99),
        data=DataConfig(batch_size=64, text_rows=64, read_threads=1),
        validation=ValidationConfig(every=100, batches=8),
        steps=1000,
        dtype="float32",
        log_every=10,
        save_every=250,
    )


def get_config():
    return to_config_dict(recipe())
