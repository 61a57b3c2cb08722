"""helios-nano Base, trained further on your own clips: adapters on all linear layers, on a laptop.

  helios-jax encode --captions clips/captions.jsonl --checkpoint nano-base --out records
  helios-jax train --config nano/own_clips --config.data.train=records
  helios-jax export --run runs/own_clips --out checkpoints/own_clips

The model is that of the checkpoint that ships with the package, whatever a newer recipe makes.
"""

from helios_jax import checkpoint, nano
from helios_jax.config import to_config_dict
from helios_jax.configs.nano import base
from helios_jax.data.batches import DataConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.config import TrainableConfig, TrainConfig
from helios_jax.training.optimizer import OptimizerConfig


def recipe() -> TrainConfig:
    """Flow matching after corrupted histories, as Base was trained."""
    return TrainConfig(
        objective="flow",
        checkpoint=str(nano.CHECKPOINT),
        model=checkpoint.load_config(nano.CHECKPOINT),
        task=base.TASK,
        corruption=base.stage1_init.CORRUPTION["corrected"],
        timesteps=base.TIMESTEPS,
        trainable=TrainableConfig(rank=16, lora=LINEARS, full=""),
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="constant"),
        data=DataConfig(batch_size=4, text_rows=64, read_threads=1, min_sections=1),
        steps=200,
        dtype="float32",
        log_every=10,
        save_every=100,
    )


def get_config():
    return to_config_dict(recipe())
