"""What a Diffusers folder has, against what is read of it: nothing is left out in silence.

``model_index.json`` names a pipeline's class, its parts (``"vae": ["diffusers", "Class"]``) and its
settings; folders beside it may hold more weights than it names.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helios_jax.checkpoint import kinds
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.names import COMPONENTS

PIPELINE = "model_index.json"
"""The file that makes a folder a Diffusers pipeline."""

HELIOS = ("HeliosPipeline", "HeliosPyramidPipeline")
WAN = ("WanPipeline", "WanVideoToVideoPipeline")
"""Classes of pipelines whose weights are read. Wan's two have the same parts."""

READ = (*COMPONENTS, "tokenizer", "scheduler")
"""The parts that are read."""

SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "is_cfg_zero_star": (True, False, None),
    "is_distilled": (True, False, None),
    "boundary_ratio": (None,),
    "expand_timesteps": (False, None),
}
"""Settings of pipelines: the values that are read, or at which they do nothing."""

STARTING_POINTS = ("transformer_init", "transformer_ode")
"""Transformers that the releases have beside their own: what a stage of the training began with."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".msgpack", ".npz")
"""Endings of files with weights."""


def check_class(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a pipeline of another class than Helios' and Wan's.

    Raises:
      CheckpointError: naming the class, and what it is where that is known.
    """
    file = folder / PIPELINE
    kind = str(index.get("_class_name"))
    if kind in kinds.PIPELINES:
        raise CheckpointError(f"{file}: {kind} is {kinds.PIPELINES[kind]}. {kinds.ADVICE}")
    if kind not in (*HELIOS, *WAN):
        raise CheckpointError(
            f"{file}: {kind} is not a Helios pipeline, nor the WanPipeline of Wan 2.1"
        )


def check_all_is_read(folder: Path, index: Mapping[str, Any], transformer: str | None) -> None:
    """Refuse a pipeline that has weights or settings which are not read.

    Args:
      folder: the pipeline's folder.
      index: its ``model_index.json``.
      transformer: the folder that the caller chose; None: the only one.

    Raises:
      CheckpointError: naming what is not read, what it is, and what can be done.
    """
    chosen = transformer is not None
    extra = [name for name in _parts(folder, index) if name not in READ]
    if "transformer_2" in extra and not chosen:
        ratio = index.get("boundary_ratio")
        raise CheckpointError(
            f"{folder} has two transformers, transformer for high noise and transformer_2 for low "
            f"noise (boundary_ratio={ratio}), as Wan 2.2 A14B has; Helios has one: choose with "
            "--transformer transformer or --transformer transformer_2"
        )
    unread = [
        name for name in extra if name not in (*STARTING_POINTS, "transformer_2", transformer)
    ]
    if unread:
        raise CheckpointError(
            f"{folder} has weights that are not read: {', '.join(unread)}. If the transformer does "
            f"without them, give it alone and the rest beside it: --source {folder}/transformer "
            f"--rest {folder}"
        )
    for name, value in index.items():
        if name.startswith("_") or isinstance(value, list):
            continue
        idle = SETTINGS.get(name, (None, False))
        if value not in idle and not (name == "boundary_ratio" and chosen):
            raise CheckpointError(
                f"{folder / PIPELINE}: {name}={value!r} is not read, and may change the "
                f"model: only {idle[0]!r} is supported"
            )


def read_index(folder: Path) -> dict[str, Any]:
    """The ``model_index.json`` of a folder.

    Raises:
      CheckpointError: if it is missing or damaged.
    """
    return read_json(folder / PIPELINE)


def _parts(folder: Path, index: Mapping[str, Any]) -> list[str]:
    """Parts with weights: those that the index names, folders that hold files of weights, and such
    files that lie beside the index.
    """
    named = {
        name
        for name, value in index.items()
        if isinstance(value, list) and any(item is not None for item in value)
    }
    held: set[str] = set()
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        weights = [name for name in files if name.endswith(WEIGHTS) and not name.startswith(".")]
        if Path(place) == folder:
            held.update(weights)
        elif weights:
            held.add(Path(place).relative_to(folder).as_posix())
    # Parts without weights, such as an image processor, are settings of the same kind.
    return sorted(named | held)
