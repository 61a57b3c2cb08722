"""The text-to-video model that helios-nano starts from, first part, from nothing: single frames, where a caption's nouns and adjectives are learned.

  python -m helios_jax.data.encode --checkpoint checkpoints/nano-parts --world=1600 --world_frames=99 --world_uncaptioned=0.1 \\
      --out data/nano
  python -m helios_jax.data.encode --checkpoint checkpoints/nano-parts --world=64 --world_frames=99 --world_split=heldout \\
      --out data/nano-heldout
  python train.py --config configs/nano/t2i.py --config.data.train=data/nano --config.data.validation=data/nano-heldout
  python -m helios_jax.training.export --run runs/t2i --base checkpoints/nano-parts --out checkpoints/nano-t2i
"""

from configs.nano._model import ONE_STAGE, model
from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.data.pipeline import DataConfig
from helios_jax.training.config import EMAConfig, TrainableConfig, TrainConfig, ValidationConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig

TIMESTEPS = TimestepConfig(density="logit_normal", logit_mean=0.5, logit_std=1.3, dynamic_shift=True)
"""Half of them below a noise level of 0.53, where an outline is drawn: the shift alone would leave little of training there."""


def get_config():
    return to_config_dict(
        TrainConfig(
            objective="flow",
            history=False,
            model=model(ONE_STAGE, SampleConfig(height=64, width=128, num_frames=99, steps=(50,))),
            timesteps=TIMESTEPS,
            trainable=TrainableConfig(rank=0, full="(?!patch_(short|mid|long)).*"),
            optimizer=OptimizerConfig(
                method="muon", learning_rate=2e-3, schedule="constant_with_warmup", warmup_steps=50, b2=0.98, weight_decay=0.01
            ),
            ema=EMAConfig(decay=0.99),
            data=DataConfig(batch_size=64, text_rows=64, read_threads=1, section_frames=1),
            validation=ValidationConfig(every=200, batches=1),
            steps=2000,
            dtype="float32",
            log_every=20,
            save_every=250,
        )
    )
