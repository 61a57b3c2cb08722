"""The text encoder of helios-nano, from nothing: captions of the procedural world, and what they
say.

python train.py --config configs/nano/text.py
python -m helios_jax.training.export --run runs/text --base checkpoints/nano-vae --out checkpoints/nano-parts --dtype bfloat16
"""

from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.configs.nano._model import ONE_STAGE, model
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainableConfig, TrainConfig, ValidationConfig
from helios_jax.training.optimizer import OptimizerConfig


def get_config():
    return to_config_dict(
        TrainConfig(
            objective="reading",
            model=model(ONE_STAGE, SampleConfig(height=64, width=128, num_frames=33, steps=(20,))),
            trainable=TrainableConfig(rank=0, full=".*"),
            optimizer=OptimizerConfig(
                method="muon",
                learning_rate=2e-3,
                schedule="cosine",
                warmup_steps=50,
                decay_steps=1000,
                b2=0.98,
                weight_decay=0.01,
            ),
            ema=EMAConfig(decay=0.99),
            data=DataConfig(batch_size=64, text_rows=64, read_threads=1),
            validation=ValidationConfig(every=100, batches=8),
            steps=1000,
            dtype="float32",
            log_every=10,
            save_every=250,
        )
    )
