"""The VAE of helios-nano, first half, from nothing: single frames of the procedural world,
reconstructed.

  helios-jax train --config nano/vae_images
  helios-jax export --run runs/vae_images --out checkpoints/nano-vae-images

A step sees 16 cut-outs of 48 x 48 pixels, each of a scene of its own.

The means of 2 x 2 latents are to decode to the half-size picture: Mid and Distilled decide on the
coarse levels of the pyramid, which consist of such means. Of a VAE of 16 channels, quarter-size
pictures come out of them at 15.4 dB and half-size ones at 18.2; 300 steps with the weight below
make it 17.2 and 23.5, and whole pictures 0.8 dB worse (benchmarks/results/nano_study.md).
"""

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano._model import ALL_WEIGHTS, EDITION, ONE_STAGE, model
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainConfig, ValidationConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.world.clips import ClipConfig


def recipe() -> TrainConfig:
    """Reconstruction of single frames."""
    return TrainConfig(
        objective="reconstruction",
        model=model(ONE_STAGE, SampleConfig(height=64, width=128, num_frames=33, steps=(20,))),
        kl_weight=3e-4,
        equivariance_weight=0.5,
        clips=ClipConfig(edition=EDITION, frames=1, window=(48, 48), validation_frames=1),
        trainable=ALL_WEIGHTS,
        optimizer=OptimizerConfig(
            method="muon",
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=50,
            decay_steps=4000,
            b2=0.99,
            weight_decay=0.0,
        ),
        ema=EMAConfig(decay=0.99),
        data=DataConfig(batch_size=16, read_threads=1),
        validation=ValidationConfig(every=100, batches=8),
        steps=4000,
        dtype="float32",
        log_every=10,
        save_every=250,
    )


def get_config():
    return to_config_dict(recipe())
