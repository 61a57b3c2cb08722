"""The VAE of helios-nano, second half: from single frames to clips of the procedural world,
reconstructed.

  helios-jax train --config nano/vae --config.checkpoint=checkpoints/nano-vae-images
  helios-jax export --run runs/vae --out checkpoints/nano-vae --dtype bfloat16

A step sees four cut-outs of 9 frames of 48 x 48 pixels.
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.nano import vae_images
from helios_jax.training.config import TrainConfig


def recipe() -> TrainConfig:
    """As vae_images, on clips."""
    config = vae_images.recipe()
    return dataclasses.replace(
        config,
        clips=dataclasses.replace(config.clips, frames=9, validation_frames=33),
        data=dataclasses.replace(config.data, batch_size=4),
        validation=dataclasses.replace(config.validation, batches=4),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-3, decay_steps=4000),
        steps=4000,
        seed=1,
    )


def get_config():
    return to_config_dict(recipe())
