"""What can be learned: for each objective the part of the model, its data, its loss, and what is
looked at on the way.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import ConfigError
from helios_jax.data.batches import TrainBatch, load_batches
from helios_jax.data.encoders import encoder_digest
from helios_jax.data.errors import DataError
from helios_jax.data.loading import Batch, Batches
from helios_jax.data.sections import HISTORY_FRAMES
from helios_jax.data.trajectories import TrajectoryBatch, load_trajectories
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training import distillation, ode, reading, reconstruction, step, validation
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import StepCost, step_cost
from helios_jax.training.trainable import frozen
from helios_jax.types import Params
from helios_jax.world.clips import ClipBatch, load_clips
from helios_jax.world.readings import (
    OBJECT_QUESTIONS,
    SCENE_QUESTIONS,
    ReadingBatch,
    load_readings,
    world_tokenizer,
)
from helios_jax.world.scenes import COLORS

Split = Literal["train", "validation"]


class Objective(NamedTuple):
    """An objective of :class:`~helios_jax.training.config.TrainConfig`.

    Attributes:
      component: the part of the model that learns; the others are not loaded.
      load: ``(config, split, process_index, process_count) -> batches``; refuses what the model
        cannot learn from.
      make_step: ``config -> ((state, base, batch) -> (state, metrics))``.
      make_validation: ``(config, sharding) -> (trainable, base, batches) -> metrics``.
      abstract_batch: ``config -> batch`` of shapes, at the size of ``model.sample``.
      cost: ``(config, trainable, batch) -> StepCost`` of one sample of a batch.
      begin: ``params -> params``, what is done to random parameters before they are trained.
      head: ``config -> params`` that train beside the component's and are thrown away with the run.
      finish: ``(config, params) -> params``, what is done to the component when a run becomes a
        checkpoint.
      tokenizer: ``config -> tokenizer`` that the component was trained with, where the data do not
        come with one.
      start: ``(config, params) -> state`` before the first step.
      base: ``(config, params) -> params`` that steps read and do not change.
      learner: what the parameters that become a checkpoint are called, where a run has others
        beside them; else empty.
    """

    component: Literal["transformer", "vae", "text_encoder"]
    load: Callable[[TrainConfig, Split, int, int], Batches]
    make_step: Callable[[TrainConfig], step.Step]
    make_validation: Callable[..., Callable[..., dict[str, Any]]]
    abstract_batch: Callable[[TrainConfig], Batch]
    cost: Callable[[TrainConfig, Params, Batch], StepCost]
    begin: Callable[[Params], Params] = lambda params: params
    head: Callable[[TrainConfig], Params] = lambda config: {}
    finish: Callable[[TrainConfig, Params], Params] = lambda config, params: params
    tokenizer: Callable[[TrainConfig], Tokenizer | None] = lambda config: None
    start: Callable[[TrainConfig, Params], step.TrainState] = step.start_state
    base: Callable[[TrainConfig, Params], Params] = lambda config, params: frozen(
        params, config.trainable
    )
    learner: str = ""

    def learned(self, tree: Params) -> Params:
        """The learner's part of what trains, or of the base."""
        return tree[self.learner] if self.learner else tree


def load_data(config: TrainConfig) -> tuple[Batches, list[Batch]]:
    """The training batches, and those that are looked at; this process's rows.

    Raises:
      ConfigError, DataError: if there are none, or they do not fit the model.
    """
    load, own = OBJECTIVES[config.objective].load, (jax.process_index(), jax.process_count())
    batches, looked_at = load(config, "train", *own), []
    if config.validation.every:
        with contextlib.closing(load(config, "validation", *own)) as validation_batches:
            looked_at = list(itertools.islice(validation_batches, config.validation.batches))
    return batches, looked_at


def _load_records(
    config: TrainConfig, split: Split, process_index: int, process_count: int
) -> Batches:
    """Batches of latents and text features, which must be the model's."""
    text, cfg, sample = config.model.text_encoder, config.model.transformer, config.model.sample
    if sum(sample.history_sizes) != HISTORY_FRAMES:
        raise ConfigError(
            f"model.sample.history_sizes={sample.history_sizes} must sum to {HISTORY_FRAMES}, the frames of history that batches have"
        )
    batches = load_batches(
        config.data,
        config.data.loader(process_index, process_count),
        seed=config.seed,
        text_rows=text.max_sequence_length,
        split=split,
    )
    there, entries = batches.source.info, batches.source.entries
    whole = (
        config.history or there.section_frames != config.data.section_frames
    )  # without a past, records may be of what is learned alone
    frames = sample.latent_frames_per_chunk if whole else config.data.section_frames
    facts = {
        "section_frames": frames,
        "latent_channels": cfg.in_channels,
        "text_width": cfg.text_dim,
    }
    wrong = [
        f"{name}: there {getattr(there, name)}, here {value}"
        for name, value in facts.items()
        if getattr(there, name) != value
    ]
    if config.checkpoint:
        for component in ("vae", "text_encoder"):
            made, own = getattr(there, component), encoder_digest(config.checkpoint, component)
            wrong += (
                [f"another {component} encoded them than the checkpoint's"]
                if made and made != own
                else []
            )
    rows, longest = (
        config.data.text_rows or text.max_sequence_length,
        max(entry.tokens for entry in entries),
    )
    if longest == rows < text.max_sequence_length:
        wrong.append(
            f"data.text_rows={rows} must be more than the longest prompt's {longest} tokens, or {text.max_sequence_length}"
        )
    cells = [size * 2 ** (config.model.scheduler.stages - 1) for size in cfg.patch_size[1:]]
    sizes = {
        (entry.height, entry.width)
        for entry in entries
        if entry.height % cells[0] or entry.width % cells[1]
    }
    wrong += [
        f"latents of {height} x {width} do not divide by {cells[0]} x {cells[1]}"
        for height, width in sorted(sizes)
    ]
    if wrong:
        raise DataError(f"the records do not fit the model: {'; '.join(wrong)}")
    return batches


def _abstract_records(config: TrainConfig) -> TrainBatch:
    sample, vae, text = config.model.sample, config.model.vae, config.model.text_encoder
    B, T, C = (
        config.data.batch_size,
        config.data.section_frames or sample.latent_frames_per_chunk,
        vae.z_dim,
    )
    cells = (sample.height // vae.spatial_factor, sample.width // vae.spatial_factor, C)
    array = jax.ShapeDtypeStruct
    return TrainBatch(
        target=array((B, T, *cells), np.float32),
        history=array((B, sum(sample.history_sizes), *cells), np.float32),
        anchor=array((B, 1, *cells), np.float32),
        text=array(
            (B, config.data.text_rows or text.max_sequence_length, text.d_model),
            jnp.dtype(config.dtype),
        ),
        length=array((B,), np.int32),
        sample=array((B, 2), np.uint32),
    )


def _load_readings(
    config: TrainConfig, split: Split, process_index: int, process_count: int
) -> Batches:
    """Batches of captions of the procedural world."""
    text, data = config.model.text_encoder, config.data
    return load_readings(
        data.loader(process_index, process_count),
        vocab_size=text.vocab_size,
        text_rows=data.text_rows or text.max_sequence_length,
        seed=config.seed,
        split=split,
    )


def _abstract_readings(config: TrainConfig) -> ReadingBatch:
    B, S = (
        config.data.batch_size,
        config.data.text_rows or config.model.text_encoder.max_sequence_length,
    )
    objects = (B, len(COLORS), len(OBJECT_QUESTIONS))
    scene = (B, len(SCENE_QUESTIONS))
    return ReadingBatch(
        *(
            jax.ShapeDtypeStruct(shape, np.int32)
            for shape in ((B, S), (B,), objects, scene, (B, 2))
        )
    )


def _load_world(
    config: TrainConfig, split: Split, process_index: int, process_count: int
) -> Batches:
    """Batches of clips of the procedural world."""
    sample, data = config.model.sample, config.data
    return load_clips(
        config.clips,
        data.loader(process_index, process_count),
        height=sample.height,
        width=sample.width,
        seed=config.seed,
        split=split,
    )


def _abstract_clips(config: TrainConfig) -> ClipBatch:
    shape = (config.data.batch_size, config.clips.frames, *config.clips.window, 3)
    return ClipBatch(
        jax.ShapeDtypeStruct(shape, np.uint8), jax.ShapeDtypeStruct((shape[0], 2), np.uint32)
    )


def _cells(config: TrainConfig, trainable: Params, batch: ClipBatch) -> StepCost:
    """The VAE's tokens are cells of latents; its operations are not counted."""
    vae, (F, Y, X) = config.model.vae, batch.frames.shape[1:4]
    return StepCost(
        (1 + (F - 1) // vae.temporal_factor)
        * (Y // vae.spatial_factor)
        * (X // vae.spatial_factor),
        0,
    )


def _load_trajectories(
    config: TrainConfig, split: Split, process_index: int, process_count: int
) -> Batches:
    """Batches of a teacher's trajectories."""
    data = config.data
    return load_trajectories(
        getattr(data, split),
        data.loader(process_index, process_count),
        seed=config.seed,
        text_rows=data.text_rows or config.model.text_encoder.max_sequence_length,
    )


def _abstract_trajectories(config: TrainConfig) -> TrajectoryBatch:
    whole = _abstract_records(config)
    B, T, H, W, C = whole.target.shape
    levels = tuple(
        jax.ShapeDtypeStruct((B, T, *grid, C), np.float32)
        for grid in stage_grids(H, W, config.model.scheduler.stages)
    )
    numbers = (jax.ShapeDtypeStruct((B,), np.float32),) * len(levels)
    return TrajectoryBatch(levels, levels, numbers, numbers, *whole[1:])


def _no_validation(trainable: Params, base: Params, batches: Sequence[Batch]) -> dict[str, float]:
    """A student is looked at by the videos it makes (``validation.videos_every``): its losses say
    little.
    """
    return {}


def _descend(make_loss: Callable[[TrainConfig], step.Loss]) -> Callable[[TrainConfig], step.Step]:
    """The steps down the gradient of a loss."""
    return lambda config: step.make_step(make_loss(config), config)


def _transformer_loss(config: TrainConfig) -> step.Loss:
    return step.make_loss(
        HeliosTransformer(config.model.transformer, jnp.dtype(config.dtype)), config
    )


def _standardize(config: TrainConfig, params: Params) -> Params:
    """Bring latents to mean 0 and deviation 1, where the model says that they have them, as clips
    of the world do that were not trained on.
    """
    vae = config.model.vae
    if any(vae.latents_mean) or set(vae.latents_std) != {1.0}:
        return params
    with contextlib.closing(_load_world(config, "validation", 0, 1)) as batches:
        return reconstruction.standardized(config, params, itertools.islice(batches, 8))


VIDEO = Objective(
    component="transformer",
    load=_load_records,
    make_step=_descend(_transformer_loss),
    make_validation=lambda config, sharding=None: validation.make_validation(
        _transformer_loss(config), config, sharding
    ),
    abstract_batch=_abstract_records,
    cost=lambda config, trainable, batch: step_cost(config, trainable, batch.target.shape[1:4]),
)

OBJECTIVES = {
    "flow": VIDEO,
    "pyramid": VIDEO,
    "ode": VIDEO._replace(
        load=_load_trajectories,
        make_step=_descend(ode.make_loss),
        make_validation=lambda config, sharding=None: _no_validation,
        abstract_batch=_abstract_trajectories,
        cost=lambda config, trainable, batch: step_cost(
            config, trainable, batch.ends[-1].shape[1:4]
        ),
    ),
    "distillation": VIDEO._replace(
        make_step=distillation.make_step,
        make_validation=lambda config, sharding=None: _no_validation,
        cost=lambda config, trainable, batch: step_cost(
            config, {}, batch.target.shape[1:4]
        )._replace(operations=0),
        start=distillation.start_state,
        base=distillation.make_base,
        learner="student",
    ),
    "reconstruction": Objective(
        component="vae",
        load=_load_world,
        make_step=_descend(reconstruction.make_loss),
        make_validation=reconstruction.make_validation,
        abstract_batch=_abstract_clips,
        cost=_cells,
        begin=reconstruction.begin,
        finish=_standardize,
    ),
    "reading": Objective(
        component="text_encoder",
        load=_load_readings,
        make_step=_descend(reading.make_loss),
        make_validation=reading.make_validation,
        abstract_batch=_abstract_readings,
        cost=lambda config, trainable, batch: StepCost(batch.ids.shape[1], 0),
        begin=reading.begin,
        head=reading.init_reader,
        finish=lambda config, params: {
            name: leaf for name, leaf in params.items() if name != reading.READER
        },
        tokenizer=lambda config: world_tokenizer(),
    ),
}
