"""Stage 3, first half: at points of its teacher's trajectories a student learns to predict at once
where the stage ends (ODE initialisation, Helios, section 3.3).

The loss is ``weight / 2 mean((y - sigma v - end)^2)``, which is a flow matching loss: that of the
velocity ``(y - end) / sigma``, weighted by ``weight / 2 sigma^2``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.data.loading import Batches, LoaderOptions
from helios_jax.data.trajectories import TrajectoryBatch, load_trajectories
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.training.config import TrainConfig
from helios_jax.training.denoising import Conditioning, DenoisingBatch, make_denoising_loss
from helios_jax.training.flops import StepCost, step_cost
from helios_jax.training.history import clean_history
from helios_jax.training.objective import Objective, Split
from helios_jax.training.records import abstract_records
from helios_jax.training.step import Loss, descend_on
from helios_jax.training.student import (
    SHIFT_FIELDS,
    check_student,
    no_validation,
    one_item_a_stage,
)
from helios_jax.training.targets import DenoisingTarget
from helios_jax.types import Params


def make_targets(batch: TrajectoryBatch, config: TrainConfig) -> DenoisingBatch:
    """One target a stage, after the teacher's own history, as it was."""
    arrays: Any = jax.tree.map(jnp.asarray, batch)
    weight = config.distillation.regression_weight
    targets = []
    for point, end, sigma, timestep in zip(
        arrays.points, arrays.ends, arrays.sigma, arrays.timestep
    ):
        velocity = (point - end) / sigma[:, None, None, None, None]
        targets.append(DenoisingTarget(point, timestep, velocity, 0.5 * weight * sigma**2))
    history = clean_history(arrays.history, arrays.anchor, config)
    return DenoisingBatch(targets, Conditioning(history, arrays.text, arrays.length))


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, frozen, batch) -> losses`` of the student."""
    return make_denoising_loss(make_targets, config)


def load(config: TrainConfig, split: Split, options: LoaderOptions) -> Batches[TrajectoryBatch]:
    """Batches of a teacher's trajectories."""
    data = config.data
    return load_trajectories(
        getattr(data, split),
        options,
        seed=config.seed,
        text_rows=data.text_rows or config.model.text_encoder.max_sequence_length,
    )


def abstract_batch(config: TrainConfig) -> TrajectoryBatch:
    """Shapes of a batch at the size of ``model.sample``."""
    records = abstract_records(config)
    B, T, H, W, C = records.target.shape
    grids = stage_grids(H, W, config.model.scheduler.stages)
    array: Any = jax.ShapeDtypeStruct  # stands for an array
    latents = tuple(array((B, T, *grid, C), np.float32) for grid in grids)
    numbers = (array((B,), np.float32),) * len(grids)
    return TrajectoryBatch(
        points=latents,
        ends=latents,
        sigma=numbers,
        timestep=numbers,
        history=records.history,
        anchor=records.anchor,
        text=records.text,
        length=records.length,
        sample=records.sample,
    )


def cost(config: TrainConfig, trainable: Params, batch: TrajectoryBatch) -> StepCost:
    """Tokens and operations of a sample."""
    return step_cost(config, trainable, batch.ends[-1].shape[1:4], one_item_a_stage(config))


OBJECTIVE = Objective(
    component="transformer",
    load=load,
    abstract_batch=abstract_batch,
    make_step=descend_on(make_loss),
    make_validation=no_validation,
    cost=cost,
    make_targets=make_targets,
    items=lambda config: config.model.scheduler.stages,
    levels=one_item_a_stage,
    check=check_student,
    scheduler_fields=SHIFT_FIELDS,
)
