"""Reading the first layout of checkpoints: one zarr array a leaf, as Orbax wrote it.

Directories of format version 1 hold a folder for each leaf, named by its keys joined with dots,
with one file for each chunk of the array. Nothing writes them any more; see
:mod:`helios_jax.checkpoint.component` for the layout of today.
"""

from pathlib import Path

import numpy as np
import tensorstore as ts

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.layout import Index


def open_array(folder: Path, path: str) -> ts.TensorStore:
    """The array of a leaf, open for reading; a missing chunk is an error rather than zeros.

    Args:
      folder: the component's folder.
      path: the leaf, e.g. ``"blocks/attn1/qkv/kernel"``.

    Raises:
      CheckpointError: if its description cannot be read.
    """
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder / array_folder(path)}/"},
        "fill_missing_data_reads": False,
    }
    try:
        return ts.open(spec, read=True).result()
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot read {folder / path}: {error}") from error


def read_array(array: ts.TensorStore, index: Index) -> np.ndarray:
    """``array[index]``.

    Raises:
      CheckpointError: if a chunk cannot be read.
    """
    try:
        return array[(*index, ...)].read().result()
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot read: {error}") from error


def array_folder(path: str) -> str:
    """Name of the folder that holds a leaf."""
    return path.replace("/", ".")
