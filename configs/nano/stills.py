"""The text-to-video model that helios-nano starts from, second part: single frames of many more scenes, the rate falling.

What the first part has seen too often (its loss on scenes never seen stays behind) is drawn anew here: a frame of each of 49,152 scenes.

  python -m helios_jax.data.encode --checkpoint checkpoints/nano-parts --world=49152 --world_frames=1 --frames=1 --min_frames=1 \\
      --world_uncaptioned=0.1 --clips_per_shard=512 --out data/nano-stills
  python train.py --config configs/nano/stills.py --config.checkpoint=checkpoints/nano-t2i --config.data.train=data/nano-stills \\
      --config.data.validation=data/nano-heldout
  python -m helios_jax.training.export --run runs/stills --out checkpoints/nano-stills
"""

from configs.nano import t2i


def get_config():
    config = t2i.get_config()
    config.data.min_sections = 1
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_steps = config.steps = 2000
    config.seed = 2
    return config
