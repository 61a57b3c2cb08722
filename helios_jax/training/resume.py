"""A run goes on where it was stopped: its checkpoints, and what may change in between."""

import contextlib
import functools
from collections.abc import Generator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from helios_jax.config import RUNTIME_FIELDS, to_dict
from helios_jax.data.loading import Batches
from helios_jax.errors import HeliosError
from helios_jax.locks import LockedError, only_writer
from helios_jax.parallel.mesh import tree_shardings
from helios_jax.training.abstract import abstract_state
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import find_objective
from helios_jax.training.step import TrainState
from helios_jax.types import Params
from helios_jax.writers import WriteError, writing

FREE = (
    "steps",
    "validation",
    "log_every",
    "save_every",
    "keep",
    "max_skipped",
    "data_parallel",
    "fsdp",
    "offload",
    "checkpoint",
    "critic.checkpoint",
    "data.train",
    "data.validation",
    "data.read_threads",
    *(f"model.transformer.{name}" for name in RUNTIME_FIELDS),
)
"""Fields that may change when a run goes on: they do not change what is learned, or, like folders,
are recognised by their contents.
"""

DEFAULTS = to_dict(TrainConfig(objective="pyramid"))
"""Defaults for configuration fields that were added after a run was started."""


@contextlib.contextmanager
def only_trainer(folder: Path) -> Generator[None, None, None]:
    """Be the only run that trains in a folder while the ``with`` block runs; its first process
    holds the lock for all.

    Raises:
      LockedError: in every process, if another run has the folder.
      WriteError: if the folder's own folder cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        refusal: HeliosError | None = None
        if jax.process_index() == 0:
            try:
                with writing(folder):
                    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
                beside = [folder / "config.json", folder / "metrics.jsonl"]
                stack.enter_context(only_writer(folder, "the run", beside=beside))
            except (LockedError, WriteError) as error:
                refusal = error
        if jax.process_count() > 1:
            refusals = multihost_utils.process_allgather(np.array(refusal is not None))
            if refusals.any() and refusal is None:
                refusal = LockedError(f"the run {folder}: the first process cannot have it")
        if refusal is not None:
            raise refusal
        yield


def open_checkpoints(config: TrainConfig, folder: Path) -> Checkpoints:
    """The checkpoints of the run in ``folder``."""
    return Checkpoints(
        folder / "checkpoints", to_dict(config), defaults=DEFAULTS, free=FREE, keep=config.keep
    )


def restore(
    config: TrainConfig,
    params: Params,
    mesh: jax.sharding.Mesh,
    batches: Batches,
    checkpoints: Checkpoints,
) -> tuple[TrainState, int]:
    """The state that a run left, or a new one, on the mesh; the batches go on from there.

    Args:
      config: of the run.
      params: that it starts with, where it has left nothing.
      mesh: where the state lies.
      batches: that it trains on; their state is restored, too.
      checkpoints: of the run.

    Returns:
      The state, and the steps it has done.

    Raises:
      CheckpointError: if what is there is another run's, or nothing verifies.
    """
    shapes = abstract_state(config, params)
    places = tree_shardings(shapes, mesh)

    def placed(leaf, place):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    if restored := checkpoints.restore_latest(jax.tree.map(placed, shapes, places)):
        batches.set_state(restored.data_state)
        return restored.state, restored.step
    init = functools.partial(find_objective(config).init_state, config)
    return jax.jit(init, out_shardings=places)(params), 0
