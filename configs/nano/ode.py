"""helios-nano Distilled, stage 3, first half: from Mid to a student of two steps a stage, on its
teacher's trajectories.

python -m helios_jax.sampling.ode_pairs --checkpoint checkpoints/nano-mid --world=120 --sections=2 --out data/nano-ode
python train.py --config configs/nano/ode.py --config.checkpoint=checkpoints/nano-mid --config.data.train=data/nano-ode
python -m helios_jax.training.export --run runs/ode --out checkpoints/nano-ode
"""

import dataclasses

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano._model import PYRAMID, model
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import DistillationConfig, EMAConfig, TrainableConfig, TrainConfig
from helios_jax.training.optimizer import OptimizerConfig

STUDENT = dataclasses.replace(PYRAMID, solver="dmd", time_shift_type="linear")


def get_config():
    sample = SampleConfig(
        height=64,
        width=128,
        num_frames=99,
        steps=(2, 2, 2),
        guidance_scale=1.0,
        amplify_first_chunk=True,
    )
    return to_config_dict(
        TrainConfig(
            objective="ode",
            model=model(STUDENT, sample),
            trainable=TrainableConfig(rank=0, full=".*"),
            optimizer=OptimizerConfig(
                method="muon",
                learning_rate=5e-4,
                schedule="cosine",
                warmup_steps=20,
                decay_steps=190,
                b2=0.98,
                weight_decay=0.01,
            ),
            distillation=DistillationConfig(regression_weight=2.0),
            ema=EMAConfig(decay=0.99),
            data=DataConfig(batch_size=16, text_rows=64, read_threads=1),
            steps=190,
            dtype="float32",
            log_every=20,
            save_every=95,
        )
    )
