"""The history that a training sample shows: cut by the sample's task, then corrupted.

What is drawn of a sample follows from the run's seed, the epoch and the record alone: from nothing
it shares a batch with.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt

from helios_jax.data.batches import TrainBatch
from helios_jax.diffusion.corruption import (
    CorruptionDraws,
    Segments,
    TaskDraws,
    apply_corruption,
    apply_task,
    draw_corruption,
    draw_task,
    segments,
)
from helios_jax.diffusion.history import HistoryState, split_history
from helios_jax.training.config import TrainConfig
from helios_jax.types import Array, Float, History, PRNGKeyArray


def sample_key(seed: int, sample: UInt[Array, "2"]) -> PRNGKeyArray:
    """The key of a sample's draws.

    Args:
      seed: of the run.
      sample: (epoch, number of the record).
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample[0]), sample[1])


def draw_history(
    task_key: PRNGKeyArray,
    corruption_key: PRNGKeyArray,
    config: TrainConfig,
    shape: tuple[int, int, int, int],
) -> tuple[TaskDraws, CorruptionDraws]:
    """Draw the task of a sample and the corruption of its history.

    Args:
      task_key, corruption_key: of the sample.
      config: of the run.
      shape: (T, H, W, C) of the section that is learned.
    """
    window = sum(config.model.sample.history_sizes)
    task = draw_task(task_key, config.task, window, shape[0])
    parts = _segments(config, shape[0])
    return task, draw_corruption(corruption_key, config.corruption, parts, shape[1:])


def show_history(
    batch: TrainBatch, task: TaskDraws, corruption: CorruptionDraws, config: TrainConfig
) -> History:
    """The histories of a batch as the network sees them.

    Args:
      batch: of the step.
      task, corruption: draws of every sample.
      config: of the run.
    """
    frames = batch.target.shape[1]
    parts = _segments(config, frames)

    def show(history, anchor, task, corruption):
        history, anchor = apply_task(history, anchor, task, frames)
        return apply_corruption(history, anchor, corruption, config.corruption, parts)

    history, anchor = jax.vmap(show)(batch.history, batch.anchor, task, corruption)
    return clean_history(history, anchor, config)


def clean_history(
    history: Float[Array | np.ndarray, "B h H W C"],
    anchor: Float[Array | np.ndarray, "B 1 H W C"],
    config: TrainConfig,
) -> History:
    """Histories as they are, in the three parts that the network takes."""
    state = HistoryState(jnp.asarray(history), jnp.asarray(anchor), jnp.ones((), bool))
    return split_history(state, config.model.sample.history_sizes)


def _segments(config: TrainConfig, frames: int) -> Segments:
    return segments(config.corruption.segments, config.model.sample.history_sizes, frames)
