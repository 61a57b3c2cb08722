"""The text-to-video model that helios-nano starts from, first part, from nothing: single frames,
where a caption's nouns and adjectives are learned.

  helios-jax encode --checkpoint checkpoints/nano-parts --world=98304 --seed=1 --world_frames=1 \\
      --world_edition=2 --frames=1 --min_frames=1 --world_uncaptioned=0.1 \\
      --clips_per_shard=512 --out data/nano-stills
  helios-jax encode --checkpoint checkpoints/nano-parts --world=512 --seed=5 --world_frames=1 \\
      --frames=1 --min_frames=1 --world_split=heldout --world_edition=2 \\
      --out data/nano-stills-heldout
  helios-jax train --config nano/t2i --config.data.train=data/nano-stills \\
      --config.data.validation=data/nano-stills-heldout
  helios-jax export --run runs/t2i --base checkpoints/nano-parts --out checkpoints/nano-t2i

Each frame is of a scene of its own: of few scenes, a model this small learns what it has seen, and
no more. On a CPU that multiplies bfloat16 (AMX, AVX512-BF16) set the environment variable
JAX_DEFAULT_MATMUL_PRECISION=bfloat16, here and for all other parts.
"""

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano._model import ONE_STAGE, adamw, model
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainableConfig, TrainConfig, ValidationConfig
from helios_jax.training.targets import TimestepConfig

TIMESTEPS = TimestepConfig(
    density="logit_normal", logit_mean=-0.2, logit_std=1.3, dynamic_shift=True
)
"""Half of the draws are below a noise level of 0.68: shapes are decided in the middle, and at the
low end the posterior's own noise is most of the loss.
"""


def recipe() -> TrainConfig:
    """Flow matching of single frames, without a history."""
    return TrainConfig(
        objective="flow",
        history=False,
        model=model(ONE_STAGE, SampleConfig(height=64, width=128, num_frames=99, steps=(50,))),
        timesteps=TIMESTEPS,
        trainable=TrainableConfig(rank=0, full="(?!patch_(short|mid|long)).*"),
        optimizer=adamw(3e-3, decay_steps=30000),
        ema=EMAConfig(decay=0.999),
        data=DataConfig(
            batch_size=16, text_rows=64, read_threads=1, section_frames=1, min_sections=1
        ),
        validation=ValidationConfig(every=1000, batches=8),
        steps=30000,
        dtype="float32",
        log_every=20,
        save_every=500,
    )


def get_config():
    return to_config_dict(recipe())
