"""The text-to-video model that helios-nano starts from, as Helios does from Wan 2.1, second part:
whole sections, where what moves is learned.

  python -m helios_jax.commands.encode --checkpoint checkpoints/nano-parts --world=4160 --seed=2 --world_frames=33 --min_frames=33 \\
      --world_uncaptioned=0.1 --out data/nano-sections
  python -m helios_jax.commands.encode --checkpoint checkpoints/nano-parts --world=3424 --seed=3 --world_frames=99 --world_uncaptioned=0.1 --out data/nano
  python -m helios_jax.commands.encode --checkpoint checkpoints/nano-parts --world=48 --world_frames=99 --world_split=heldout --out data/nano-heldout
  python train.py --config configs/nano/t2v.py --config.checkpoint=checkpoints/nano-t2i \\
      "--config.data.train=('data/nano-sections','data/nano')"
      --config.data.validation=data/nano-heldout
  python -m helios_jax.training.export --run runs/t2v --out checkpoints/nano-t2v

It goes out as a Wan and comes back as a Helios, with the history patches that training starts from:

  python convert_torch_weights.py --to_wan --source checkpoints/nano-t2v --out checkpoints/nano-wan-torch
  python convert_torch_weights.py --init_from_wan --source checkpoints/nano-wan-torch --out checkpoints/nano-wan
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.nano import t2i

TIMESTEPS = dataclasses.replace(t2i.TIMESTEPS, logit_mean=0.5)
"""Sections have nine times the tokens of a still, and their levels are shifted that much more: half
of them are below 0.805.
"""


def get_config():
    config = t2i.get_config()
    config.timesteps = to_config_dict(TIMESTEPS)
    config.data.batch_size, config.data.section_frames = 16, 0
    config.validation.every, config.validation.batches = 250, 3
    config.optimizer.learning_rate, config.optimizer.schedule = 1.5e-3, "constant_with_warmup"
    config.steps = 3500
    config.ema.decay = 0.995
    config.save_every = 100
    config.seed = 1
    return config
