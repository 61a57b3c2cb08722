"""The VAE of helios-nano, second half: from single frames to clips of the procedural world,
reconstructed.

  python train.py --config configs/nano/vae.py --config.checkpoint=checkpoints/nano-vae-images
  python -m helios_jax.training.export --run runs/vae --out checkpoints/nano-vae --dtype bfloat16

A step sees four cut-outs of 9 frames of 48 x 48 pixels.
"""

from helios_jax.configs.nano import vae_images


def get_config():
    config = vae_images.get_config()
    config.clips.frames, config.clips.validation_frames = 9, 33
    config.data.batch_size = 4
    config.validation.batches = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = config.steps = 2000
    config.seed = 1
    return config
