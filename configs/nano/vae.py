"""The VAE of helios-nano, from nothing: clips of the procedural world, reconstructed.

  python train.py --config configs/nano/vae.py
  python -m helios_jax.training.export --run runs/vae --out checkpoints/nano-vae

A step sees four clips of 5 frames of 48 x 48 pixels.
"""

from configs.nano._model import ONE_STAGE, model
from helios_jax.config import SampleConfig, to_config_dict
from helios_jax.data.clips import ClipConfig
from helios_jax.data.pipeline import DataConfig
from helios_jax.training.config import EMAConfig, TrainableConfig, TrainConfig, ValidationConfig
from helios_jax.training.optimizer import OptimizerConfig


def get_config():
    return to_config_dict(
        TrainConfig(
            objective="reconstruction",
            model=model(ONE_STAGE, SampleConfig(height=64, width=128, num_frames=33, steps=(20,))),
            kl_weight=3e-4,
            clips=ClipConfig(frames=5, window=(48, 48)),
            trainable=TrainableConfig(rank=0, full=".*"),
            optimizer=OptimizerConfig(learning_rate=7e-4, schedule="cosine", warmup_steps=100, decay_steps=8000, b2=0.99, weight_decay=0.0),
            ema=EMAConfig(decay=0.995),
            data=DataConfig(batch_size=4, read_threads=1),
            validation=ValidationConfig(every=250, batches=2),
            steps=8000,
            dtype="float32",
            log_every=10,
            save_every=250,
        )
    )
