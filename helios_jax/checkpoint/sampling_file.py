"""``helios_jax.json`` of a Diffusers folder: how the checkpoint is sampled, which Diffusers keeps
nowhere. Diffusers leaves the file alone.
"""

import dataclasses
from pathlib import Path
from typing import Any

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import read_json, write_json
from helios_jax.config import (
    ConfigError,
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    from_dict,
    to_dict,
)

SAMPLING = "helios_jax.json"
"""Its name."""


def write_sampling(folder: Path, config: HeliosConfig) -> None:
    """Write the file: the defaults of a request, and which grid sets the dynamic shift."""
    write_json(
        folder / SAMPLING,
        {"sample": to_dict(config.sample), "shift_tokens": config.scheduler.shift_tokens},
    )


def read_sampling(
    folder: Path, scheduler: SchedulerConfig, defaults: SampleConfig
) -> tuple[SchedulerConfig, SampleConfig]:
    """How the checkpoint in a Diffusers folder is sampled.

    Args:
      folder: the folder.
      scheduler: what its ``scheduler_config.json`` says.
      defaults: of a request, where the folder does not have the file, as releases do not.

    Raises:
      CheckpointError: if the file is damaged, or has steps for another number of stages.
    """
    file = folder / SAMPLING
    if not file.exists():
        return scheduler, defaults
    values: dict[str, Any] = read_json(file)
    try:
        sample = from_dict(SampleConfig, values.get("sample", {}))
        scheduler = dataclasses.replace(
            scheduler, shift_tokens=values.get("shift_tokens", scheduler.shift_tokens)
        )
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if len(sample.steps) != scheduler.stages:
        raise CheckpointError(
            f"{file}: steps={sample.steps} is not for the {scheduler.stages} stage(s) of the "
            "scheduler: correct it, or remove the file to take the release's defaults"
        )
    return scheduler, sample
