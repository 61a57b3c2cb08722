"""The text-to-video model that helios-nano starts from, as Helios does from Wan 2.1, third part: whole sections, where what moves is learned.

  python train.py --config configs/nano/t2v.py --config.checkpoint=checkpoints/nano-stills --config.data.train=data/nano \\
      --config.data.validation=data/nano-heldout
  python -m helios_jax.training.export --run runs/t2v --out checkpoints/nano-t2v

It goes out as a Wan and comes back as a Helios, with the history patches that training starts from:

  python convert_torch_weights.py --to_wan --source checkpoints/nano-t2v --out checkpoints/nano-wan-torch
  python convert_torch_weights.py --init_from_wan --source checkpoints/nano-wan-torch --out checkpoints/nano-wan
"""

import dataclasses

from configs.nano import t2i
from helios_jax.config import to_config_dict

TIMESTEPS = dataclasses.replace(t2i.TIMESTEPS, logit_mean=1.0)
"""Sections have nine times the tokens of a still, and their levels are shifted that much more: half of them are below 0.715."""


def get_config():
    config = t2i.get_config()
    config.timesteps = to_config_dict(TIMESTEPS)
    config.data.batch_size, config.data.section_frames = 16, 0
    config.validation.batches = 4
    config.optimizer.learning_rate = 1e-3
    config.steps = 300
    config.seed = 1
    return config
