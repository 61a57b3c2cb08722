"""The text-to-video model that helios-nano starts from, as Helios does from Wan 2.1, second part:
whole sections, where motion is learned.

  helios-jax encode --checkpoint checkpoints/nano-parts --world=8192 --seed=2 --world_frames=33 \\
      --world_edition=2 --min_frames=33 --world_uncaptioned=0.1 --out data/nano-sections
  helios-jax encode --checkpoint checkpoints/nano-parts --world=4096 --seed=3 --world_frames=99 \\
      --world_edition=2 --world_uncaptioned=0.1 --out data/nano
  helios-jax encode --checkpoint checkpoints/nano-parts --world=48 --world_frames=99 \\
      --world_edition=2 --world_split=heldout --out data/nano-heldout
  helios-jax train --config nano/t2v --config.checkpoint=checkpoints/nano-t2i \\
      "--config.data.train=('data/nano-sections','data/nano')" \\
      --config.data.validation=data/nano-heldout
  helios-jax export --run runs/t2v --out checkpoints/nano-t2v

It goes out as a Wan and comes back as a Helios, with the history patches that training starts from:

  helios-jax convert --to_wan --source checkpoints/nano-t2v --out checkpoints/nano-wan-torch
  helios-jax convert --init_from_wan --source checkpoints/nano-wan-torch --out checkpoints/nano-wan
"""

import dataclasses

from helios_jax.config import to_config_dict
from helios_jax.configs.nano import t2i
from helios_jax.configs.nano._model import adamw
from helios_jax.training.config import TrainConfig

TIMESTEPS = dataclasses.replace(t2i.TIMESTEPS, logit_mean=0.5)
"""Sections have nine times the tokens of a still, and their levels are shifted that much more: half
of the draws are below 0.805.
"""


def recipe() -> TrainConfig:
    """As t2i, on whole sections, in batches of 8: of stills, batches half as large reach a lower
    loss in as much time (benchmarks/results/nano_study.md), and these have 4.5 times their tokens.
    """
    config = t2i.recipe()
    return dataclasses.replace(
        config,
        timesteps=TIMESTEPS,
        data=dataclasses.replace(config.data, section_frames=0, batch_size=8),
        validation=dataclasses.replace(config.validation, every=250, batches=6),
        optimizer=adamw(2e-3, decay_steps=10000),
        steps=10000,
        save_every=100,
        seed=1,
    )


def get_config():
    return to_config_dict(recipe())
