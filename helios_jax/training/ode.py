"""A student's beginning: at points of its teacher's trajectories it learns to say at once where the
stage ends (Helios, ODE initialisation).

The loss is ``weight / 2 mean((y - sigma v - end)^2)``, which is a flow matching loss: that of the
velocity ``(y - end) / sigma``, weighted by ``weight / 2 sigma^2``.
"""

import jax.numpy as jnp

from helios_jax.data.trajectories import TrajectoryBatch
from helios_jax.diffusion.history import HistoryState, split_history
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training.config import TrainConfig
from helios_jax.training.step import Loss, Questions, losses
from helios_jax.training.targets import FlowItem


def ask(batch: TrajectoryBatch, config: TrainConfig) -> Questions:
    """One question a stage; the history is the teacher's own, as it was."""
    weight, items = config.distillation.regression_weight, []
    for point, end, sigma, timestep in zip(batch.points, batch.ends, batch.sigma, batch.timestep):
        level = sigma[:, None, None, None, None]
        items.append(FlowItem(point, timestep, (point - end) / level, 0.5 * weight * sigma**2))
    window = split_history(
        HistoryState(batch.history, batch.anchor, jnp.ones((), bool)),
        config.model.sample.history_sizes,
    )
    return Questions(items, window, batch.text, batch.length)


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, base, batch) -> losses`` of the student."""
    model = HeliosTransformer(config.model.transformer, jnp.dtype(config.dtype))
    return lambda trainable, base, batch: losses(
        combine(base, trainable), ask(batch, config), model, config
    )
