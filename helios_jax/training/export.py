"""What a run has trained, as a checkpoint to sample with; `helios-jax export` from the shell."""

import contextlib
import dataclasses
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from helios_jax.checkpoint import CheckpointError, load_config
from helios_jax.checkpoint.export_lora import merge_into_checkpoint
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.params import dtype_rules, random_params
from helios_jax.config import RUNTIME_FIELDS, ConfigError, HeliosConfig, from_dict
from helios_jax.models.lora import merge
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import find_objective
from helios_jax.types import Params


def read_config(run: str | os.PathLike) -> TrainConfig:
    """The recipe of a run's folder.

    Raises:
      CheckpointError: if it is not a run's folder.
    """
    try:
        return from_dict(TrainConfig, read_json(Path(run) / "config.json"))
    except ConfigError as error:
        raise CheckpointError(f"{Path(run) / 'config.json'}: {error}") from error


def read_weights(
    run: str | os.PathLike, step: int | None = None, ema: bool = True
) -> tuple[int, Params]:
    """The weights of a run that become a checkpoint: what trains, of a distillation the student.

    Args:
      run: the run's folder, which may be in use.
      step: which; None is the newest that verifies.
      ema: take the moving average, where there is one.

    Returns:
      The step, and the tree of numpy arrays.

    Raises:
      CheckpointError: if there is no such step, or it does not verify.
    """
    student = find_objective(read_config(run)).student_key
    prefix = f"trainable/{student}/" if student else "trainable/"
    with contextlib.closing(Checkpoints(Path(run) / "checkpoints", {}, read_only=True)) as there:
        if ema:
            step, leaves = there.read(step, "ema/")
            if leaves:
                return step, _tree(leaves, "ema/")
        step, leaves = there.read(step, prefix)
    return step, _tree(leaves, prefix)


def _tree(leaves: dict[str, np.ndarray], prefix: str) -> Params:
    """A tree of leaves whose names begin with ``prefix``."""
    flat = {name.removeprefix(prefix): leaf for name, leaf in leaves.items()}
    return unflatten_dict(flat, sep="/")


def export_merged(
    config: TrainConfig,
    trained: Params,
    out: str | os.PathLike,
    base: str = "",
    overwrite: bool = False,
    dtype: str = "",
) -> None:
    """Write the checkpoint that a run has made of the one it began with.

    Args:
      config: the run's recipe; the new checkpoint has its scheduler and sampling defaults.
      trained: from :func:`read_weights`.
      out: the directory to make.
      base: the checkpoint to take the rest from, if it is no longer where the recipe says, or the
        run began with random weights.
      overwrite: replace ``out`` if it is a checkpoint.
      dtype: to store what was trained in; empty keeps what the base stores it in.

    Raises:
      CheckpointError: if there is no such checkpoint, or it is of another geometry.
    """
    objective = find_objective(config)
    component = objective.component
    base = base or config.checkpoint
    if not base and component == "transformer":
        raise CheckpointError(
            "the run began with random weights: --base names a checkpoint to take the VAE and the "
            "text encoder from"
        )
    if not config.checkpoint:
        random = random_params(config.model, config.seed, jnp.dtype(config.dtype))[component]
        trained = merge({**random, **objective.extra_params(config)}, trained)
    merge_into_checkpoint(
        base,
        objective.export_params(config, trained),
        out,
        config=_with_runtime_fields(config.model, load_config(base)) if base else config.model,
        component=component,
        tokenizer=objective.tokenizer(config),
        dtype=dtype_rules(jnp.dtype(dtype), jnp.dtype(dtype))[component] if dtype else None,
        overwrite=overwrite,
    )


def _with_runtime_fields(config: HeliosConfig, base: HeliosConfig) -> HeliosConfig:
    """``config`` computed as ``base`` is, not as it was trained."""
    fields = {name: getattr(base.transformer, name) for name in RUNTIME_FIELDS}
    return dataclasses.replace(
        config, transformer=dataclasses.replace(config.transformer, **fields)
    )
