"""helios-nano Mid, stage 2: from Base to a pyramid of three resolutions, all weights trained.

  python train.py --config configs/nano/mid.py --config.checkpoint=checkpoints/nano-base \\
      "--config.data.train=('data/nano','data/nano','data/nano-sections')"
      --config.data.validation=data/nano-heldout
  python -m helios_jax.training.export --run runs/mid --out checkpoints/nano-mid

Motion is decided at the coarse levels. At the coarsest, velocities are a third as long and a
question counts a ninth: more are asked.
"""

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano import base
from helios_jax.configs.nano._model import PYRAMID, model
from helios_jax.configs.train import stage1_init
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainableConfig, TrainConfig, ValidationConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig


def get_config():
    sample = SampleConfig(
        height=64,
        width=128,
        num_frames=99,
        steps=(20, 20, 20),
        guidance_scale=5.0,
        cfg_zero_star=True,
        zero_init_steps=2,
    )
    return to_config_dict(
        TrainConfig(
            objective="pyramid",
            model=model(PYRAMID, sample),
            pyramid_items=(4, 2, 1),
            task=base.TASK,
            corruption=stage1_init.CORRUPTION["corrected"],
            timesteps=TimestepConfig(density="uniform"),
            trainable=TrainableConfig(rank=0, full=".*"),
            optimizer=OptimizerConfig(
                method="muon",
                learning_rate=1.5e-3,
                schedule="cosine",
                warmup_steps=20,
                decay_steps=1200,
                b2=0.98,
                weight_decay=0.01,
            ),
            ema=EMAConfig(decay=0.99),
            data=DataConfig(batch_size=8, text_rows=64, read_threads=1, min_sections=1),
            validation=ValidationConfig(every=400, batches=3),
            steps=1200,
            dtype="float32",
            log_every=20,
            save_every=100,
        )
    )
