"""What a run has trained, as something to sample with.

A complete checkpoint, adapters folded in, for sample.py, for the next stage, and for
convert_torch_weights.py:

  python -m helios_jax.training.export --run runs/stage1 --out checkpoints/helios-base

A run that trained a VAE from nothing gives a checkpoint with nothing else; --base names one whose
other parts it is to have.

The adapters alone, for `load_lora_weights` of Diffusers, and beside them what was trained in full:

  python -m helios_jax.training.export --run runs/stage1 --out lora --format lora

The newest step that verifies is taken, or that of --step; of its weights the moving average, where
the run keeps one, or with --noema those of the last step. Exit status: 0 when done, 2 when the
input cannot be used (one line on stderr says why).
"""

import dataclasses
import os
from pathlib import Path

import jax.numpy as jnp
from absl import flags

from helios_jax.checkpoint import CheckpointError, load_config
from helios_jax.checkpoint.directory import unflatten
from helios_jax.checkpoint.export_lora import export_lora, merge_into_checkpoint
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.params import dtype_rules, random_params
from helios_jax.commands.legacy import run_script
from helios_jax.config import RUNTIME_FIELDS, ConfigError, HeliosConfig, from_dict
from helios_jax.models.lora import merge
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import OBJECTIVES
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
    """What trains, at a step of a run.

    Args:
      run: the run's folder, which may be in use.
      step: which; None is the newest that verifies.
      ema: take the moving average, where there is one.

    Returns:
      The step, and the tree of numpy arrays.

    Raises:
      CheckpointError: if there is no such step, or it does not verify.
    """
    checkpoints = Checkpoints(Path(run) / "checkpoints", {}, read_only=True)
    try:
        step, leaves = checkpoints.read(step, "ema/") if ema else (step, {})
        if not leaves:
            step, leaves = checkpoints.read(step, "trainable/")
    finally:
        checkpoints.close()
    return step, unflatten({name.partition("/")[2]: leaf for name, leaf in leaves.items()})


def export_merged(
    config: TrainConfig,
    trained: Params,
    out: str | os.PathLike,
    base: str = "",
    overwrite: bool = False,
    dtype: str = "",
) -> None:
    """Write the checkpoint that the run has made of the one it began with.

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
    objective, base = OBJECTIVES[config.objective], base or config.checkpoint
    component = objective.component
    if not base and component == "transformer":
        raise CheckpointError(
            "the run began with random weights: --base names a checkpoint to take the VAE and the text encoder from"
        )
    if not config.checkpoint:
        random = random_params(config.model, config.seed, jnp.dtype(config.dtype))[
            component
        ] | objective.head(config)
        trained = merge(random, trained)
    model = _with_runtime_fields(config.model, load_config(base)) if base else config.model
    trained = objective.finish(config, trained)
    rule = dtype_rules(jnp.dtype(dtype), jnp.dtype(dtype))[component] if dtype else None
    options = dict(
        component=component, tokenizer=objective.tokenizer(config), dtype=rule, overwrite=overwrite
    )
    merge_into_checkpoint(base, trained, out, config=model, **options)


def _with_runtime_fields(config: HeliosConfig, base: HeliosConfig) -> HeliosConfig:
    """``config`` computed as ``base`` is, not as it was trained."""
    fields = {name: getattr(base.transformer, name) for name in RUNTIME_FIELDS}
    return dataclasses.replace(
        config, transformer=dataclasses.replace(config.transformer, **fields)
    )


def main() -> None:
    """Export as the flags say."""
    values = flags.FLAGS
    config = read_config(values.run)
    step, trained = read_weights(values.run, values.step, values.ema)
    trained = trained.get(
        OBJECTIVES[config.objective].learner, trained
    )  # the average is the learner's, what trains may be more
    if values.format == "lora":
        export_lora(values.out, config.model.transformer, trained, values.overwrite)
    else:
        export_merged(
            config, trained, values.out, values.base or "", values.overwrite, values.dtype or ""
        )
    print(f"wrote {values.out}: step {step} of {values.run}")


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Folder of the run.", required=True)
    flags.DEFINE_string("out", None, "Directory to make.", required=True)
    flags.DEFINE_enum(
        "format", "merged", ["merged", "lora"], "A complete checkpoint, or the adapters alone."
    )
    flags.DEFINE_integer("step", None, "Which step; the newest that verifies if left out.")
    flags.DEFINE_bool("ema", True, "Take the moving average of the weights, where there is one.")
    flags.DEFINE_string(
        "base",
        None,
        "The checkpoint that was trained on, if it is no longer where the recipe says.",
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16"],
        "Store what was trained in this dtype; by default in the base's.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.")
    run_script(main, (CheckpointError, OSError))
