"""Toy models that compile in seconds, and batches of noise and records for them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.checkpoint.params import random_params
from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from helios_jax.data.batches import DataConfig, TrainBatch
from helios_jax.data.info import DatasetInfo, write_info
from helios_jax.data.records import Record
from helios_jax.data.shards import open_shard
from helios_jax.training.config import (
    CriticConfig,
    DistillationConfig,
    TrainableConfig,
    TrainConfig,
)
from helios_jax.training.optimizer import OptimizerConfig

LATENT = (9, 8, 16, 4)
"""T, H, W, C."""

TRANSFORMER = TransformerConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    rope_dim=(4, 6, 6),
    in_channels=4,
    out_channels=4,
    ffn_dim=48,
    num_layers=2,
    text_dim=16,
    freq_dim=16,
)

ONE_STAGE = SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
STUDENT = SchedulerConfig(solver="dmd", time_shift_type="linear")
TWO_STAGES = dataclasses.replace(STUDENT, stages=2, stage_range=(0.0, 0.5, 1.0))


STEPS = {"flow": (2,), "distillation": (2, 1)}
SCHEDULERS = {"flow": ONE_STAGE, "ode": STUDENT, "distillation": TWO_STAGES}


def toy_model(objective: str = "flow") -> HeliosConfig:
    """A model of 2 layers and 32 channels.

    A student has one layer and two levels: its step holds the network a dozen times.
    """
    transformer = TRANSFORMER
    if objective == "distillation":
        transformer = dataclasses.replace(TRANSFORMER, num_layers=1)
    return HeliosConfig(
        transformer=transformer,
        vae=VAEConfig(
            base_dim=8,
            z_dim=4,
            dim_mult=(1, 1, 1, 1),
            num_res_blocks=1,
            latents_mean=(0.0,) * 4,
            latents_std=(1.0,) * 4,
        ),
        text_encoder=TextEncoderConfig(
            vocab_size=64,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            max_sequence_length=32,
        ),
        scheduler=SCHEDULERS.get(objective, SchedulerConfig()),
        sample=SampleConfig(
            height=64,
            width=128,
            num_frames=33,
            steps=STEPS.get(objective, (2, 2, 2)),
            guidance_scale=1.0,
        ),
    )


def toy_config(objective: str = "flow", **changes: Any) -> TrainConfig:
    """A training run of the toy: one flow, a pyramid of three levels with 1, 2 and 1 targets, or a
    student that moves at every other step.

    Args:
      objective: of the run.
      changes: other fields of the run.
    """
    config = TrainConfig(
        objective=objective,
        model=toy_model(objective),
        pyramid_items=(1, 2, 1),
        distillation=DistillationConfig(student_every=2),
        critic=CriticConfig(
            trainable=TrainableConfig(rank=2), optimizer=OptimizerConfig(learning_rate=1e-2)
        ),
        trainable=TrainableConfig(
            rank=4,
            lora=r"blocks/.*|(time|text)_embedder/.*|time_proj|proj_out|patch_embedding",
            full="patch_(short|mid|long)/.*",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        data=DataConfig(batch_size=2, text_rows=8, read_threads=0),
        steps=4,
        dtype="float32",
    )
    return dataclasses.replace(config, **changes)


def toy_params(config: TrainConfig, seed: int = 0) -> dict:
    """Random parameters of the transformer."""
    return random_params(config.model, seed, jnp.float32)["transformer"]


def toy_batch(config: TrainConfig, seed: int = 0) -> TrainBatch:
    """A batch of noise."""
    rng = np.random.default_rng(seed)
    B = config.data.batch_size
    S = config.data.text_rows
    T, *cells = LATENT

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    length = rng.integers(2, 7, B).astype(np.int32)
    text = normal(B, S, config.model.text_encoder.d_model)
    text *= (np.arange(S) < length[:, None])[..., None]
    sample = np.stack([np.full(B, seed), np.arange(B)], axis=1).astype(np.uint32)
    return TrainBatch(
        target=normal(B, T, *cells),
        history=normal(B, 19, *cells),
        anchor=normal(B, 1, *cells),
        text=text,
        length=length,
        sample=sample,
    )


def full(config: TrainConfig) -> TrainConfig:
    """The same run, training everything."""
    return dataclasses.replace(config, trainable=TrainableConfig(rank=0, full=".*"))


def warm(trainable: dict, seed: int = 1) -> dict:
    """The same tree with adapters that do something: their second factors are zero at first."""
    key = jax.random.key(seed)
    return jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(key, leaf.shape), trainable)


def write_records(folder: Path, clips: int, seed: int = 0, frames: int = LATENT[0]) -> Path:
    """A dataset of clips of noise, of 3 or 4 sections, that the toy can be trained on."""
    rng = np.random.default_rng(seed)
    write_info(
        folder,
        DatasetInfo(
            section_frames=frames, latent_channels=LATENT[3], text_width=16, text_dtype="float32"
        ),
    )
    with open_shard(folder, "00000-of-00001") as shard:
        for clip in range(clips):
            latents = rng.standard_normal((3 + clip % 2, frames, *LATENT[1:]), np.float32)
            text = rng.standard_normal((2 + clip % 5, 16), np.float32)
            known = {
                "id": f"clip{clip}",
                "frames": (4 * frames - 3) * len(latents),
                "source": f"noise {clip}",
            }
            shard.write(Record(latents, text, f"clip {clip}", known))
    return folder
