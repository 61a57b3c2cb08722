"""The VAE of helios-nano, second half: from single frames to clips of the procedural world, reconstructed; then once more, from where that ended.

  python train.py --config configs/nano/vae.py --config.checkpoint=checkpoints/nano-vae-images
  python -m helios_jax.training.export --run runs/vae --out checkpoints/nano-vae-clips
  python train.py --config configs/nano/vae.py:again --config.checkpoint=checkpoints/nano-vae-clips --run runs/vae_again
  python -m helios_jax.training.export --run runs/vae_again --out checkpoints/nano-vae

A step sees four cut-outs of 9 frames of 48 x 48 pixels.
"""

from configs.nano import vae_images


def get_config(variant: str = "first"):
    config = vae_images.get_config()
    config.clips.frames, config.clips.validation_frames = 9, 33
    config.data.batch_size = 4
    config.validation.batches = 4
    config.seed, config.optimizer.learning_rate, config.steps = {"first": (1, 1e-3, 2000), "again": (2, 1.5e-3, 1500)}[variant]
    config.optimizer.decay_steps = config.steps
    return config
