"""The records that a transformer learns from: batches that fit the model, and their shapes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import ConfigError
from helios_jax.data.batches import TrainBatch, load_batches
from helios_jax.data.encoders import encoder_digest
from helios_jax.data.errors import DataError
from helios_jax.data.loading import Batches, LoaderOptions
from helios_jax.data.sections import HISTORY_FRAMES
from helios_jax.data.source import RecordSource
from helios_jax.training.config import TrainConfig
from helios_jax.training.objective import Split


def load_records(config: TrainConfig, split: Split, options: LoaderOptions) -> Batches[TrainBatch]:
    """Batches of latents and text features.

    Raises:
      ConfigError, DataError: if there are none, or they are not the model's.
    """
    text = config.model.text_encoder
    history_sizes = config.model.sample.history_sizes
    if sum(history_sizes) != HISTORY_FRAMES:
        raise ConfigError(
            f"model.sample.history_sizes={history_sizes} must sum to {HISTORY_FRAMES}, the frames "
            "of history that batches have"
        )
    batches = load_batches(
        config.data,
        options,
        seed=config.seed,
        text_rows=text.max_sequence_length,
        split=split,
    )
    assert batches.source is not None  # that of the records
    if wrong := _misfits(config, batches.source):
        raise DataError(f"the records do not fit the model: {'; '.join(wrong)}")
    return batches


def abstract_records(config: TrainConfig) -> TrainBatch:
    """Shapes of a batch at the size of ``model.sample``."""
    sample = config.model.sample
    vae = config.model.vae
    text = config.model.text_encoder
    B = config.data.batch_size
    T = config.data.section_frames or sample.latent_frames_per_chunk
    H = sample.height // vae.spatial_factor
    W = sample.width // vae.spatial_factor
    S = config.data.text_rows or text.max_sequence_length
    array: Any = jax.ShapeDtypeStruct  # stands for an array
    return TrainBatch(
        target=array((B, T, H, W, vae.z_dim), np.float32),
        history=array((B, sum(sample.history_sizes), H, W, vae.z_dim), np.float32),
        anchor=array((B, 1, H, W, vae.z_dim), np.float32),
        text=array((B, S, text.d_model), jnp.dtype(config.dtype)),
        length=array((B,), np.int32),
        sample=array((B, 2), np.uint32),
    )


def _misfits(config: TrainConfig, source: RecordSource) -> list[str]:
    """Why the records are not the model's, one line a reason."""
    return [
        *_other_shapes(config, source),
        *_other_encoders(config, source),
        *_lacking_text_row(config, source),
        *_odd_sizes(config, source),
    ]


def _other_shapes(config: TrainConfig, source: RecordSource) -> list[str]:
    there = source.info
    transformer = config.model.transformer
    # Without a history, records may hold no more than what is learned.
    whole = config.history or there.section_frames != config.data.section_frames
    sample = config.model.sample
    expected = {
        "section_frames": sample.latent_frames_per_chunk if whole else config.data.section_frames,
        "latent_channels": transformer.in_channels,
        "text_width": transformer.text_dim,
    }
    return [
        f"{name}: there {getattr(there, name)}, here {value}"
        for name, value in expected.items()
        if getattr(there, name) != value
    ]


def _other_encoders(config: TrainConfig, source: RecordSource) -> list[str]:
    if not config.checkpoint:
        return []
    wrong = []
    for component in ("vae", "text_encoder"):
        made_by = getattr(source.info, component)
        if made_by and made_by != encoder_digest(config.checkpoint, component):
            wrong.append(f"another {component} encoded them than the checkpoint's")
    return wrong


def _lacking_text_row(config: TrainConfig, source: RecordSource) -> list[str]:
    most = config.model.text_encoder.max_sequence_length
    rows = config.data.text_rows or most
    longest = max(entry.tokens for entry in source.entries)
    # Padding behind a prompt is one row that counts for all that is missing.
    if not longest == rows < most:
        return []
    return [
        f"data.text_rows={rows} must be more than the longest prompt's {longest} tokens, or {most}"
    ]


def _odd_sizes(config: TrainConfig, source: RecordSource) -> list[str]:
    _, rows, columns = config.model.transformer.patch_size
    coarsest = 2 ** (config.model.scheduler.stages - 1)
    rows = rows * coarsest
    columns = columns * coarsest
    sizes = {(entry.height, entry.width) for entry in source.entries}
    return [
        f"latents of {height} x {width} do not divide by {rows} x {columns}"
        for height, width in sorted(sizes)
        if height % rows or width % columns
    ]
