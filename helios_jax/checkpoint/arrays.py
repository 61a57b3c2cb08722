"""Arrays on disk: one zarr array a leaf, written by TensorStore, in the layout that Orbax restores.

This is the one file that knows Orbax's private layout: a folder with one zarr array a leaf, named
by the leaf's keys joined with dots, and two JSON files, ``_METADATA`` (the tree) and
``_CHECKPOINT_METADATA`` (who reads it). Orbax itself is not used for writing: it writes whole
leaves, and a leaf here is a stack of all layers, gigabytes long. A chunk is the part of a leaf that
one torch tensor fills, so that tensors can be written one by one, in any order, each into files of
its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import write_json
from helios_jax.checkpoint.layout import Shape, Slot

CHUNK_BYTES = 2**28
"""A tensor larger than this is cut along its first axis."""


def create(
    folder: Path, leaves: Mapping[str, Slot], dtypes: Mapping[str, np.dtype]
) -> dict[str, ts.TensorStore]:
    """Make the empty arrays of a component, and the files that let Orbax restore it.

    Args:
      folder: the component's folder.
      leaves: the first slot of each leaf by path, which gives the array's shape and chunks.
      dtypes: dtype of each leaf.

    Returns:
      The arrays, open for writing.
    """
    folder.mkdir(parents=True)
    arrays = {
        path: _create(folder, path, slot, np.dtype(dtypes[path])) for path, slot in leaves.items()
    }
    write_json(folder / "_METADATA", _tree_metadata(list(leaves)))
    write_json(folder / "_CHECKPOINT_METADATA", {"item_handlers": _HANDLER})
    return arrays


def write(array: ts.TensorStore, index: tuple[int | slice, ...], part: np.ndarray) -> None:
    """Write ``array[index] = part``, where ``index`` is a slot's, chunk by chunk so that no more
    than one chunk is buffered.
    """
    target = array[(*index, ...)]
    rows = next(
        size
        for size, at in zip(array.chunk_layout.write_chunk.shape, (*index, slice(None)))
        if isinstance(at, slice)
    )
    try:
        for start in range(0, part.shape[0], rows):
            here = slice(start, min(start + rows, part.shape[0]))
            target[here].write(part[here]).result()
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot write: {error}") from error


def read(array: ts.TensorStore, index: tuple[int | slice, ...] = ()) -> np.ndarray:
    """``array[index]``, where ``index`` is a slot's.

    Raises:
      CheckpointError: if a chunk cannot be read.
    """
    try:
        return array[(*index, ...)].read().result()
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot read: {error}") from error


def open_array(folder: Path, path: str) -> ts.TensorStore:
    """The array of the leaf ``path``, open for reading; a missing chunk is an error rather than
    zeros.
    """
    return ts.open(_spec(folder, path) | {"fill_missing_data_reads": False}, read=True).result()


def array_folder(path: str) -> str:
    """Name of the folder that holds the leaf ``path``."""
    return path.replace("/", ".")


def _create(folder: Path, path: str, slot: Slot, dtype: np.dtype) -> ts.TensorStore:
    metadata = {
        "zarr_format": 2,
        "shape": slot.leaf_shape,
        "chunks": _bounded(slot.chunk_shape, dtype.itemsize),
        "dtype": dtype.name if dtype.kind == "V" else dtype.str,
        "compressor": None,  # weights do not compress
        "fill_value": None,
        "order": "C",
        "dimension_separator": ".",
    }
    # A chunk of zeros, such as a fresh bias, is written like any other, so that a missing file
    # always means damage.
    spec = _spec(folder, path) | {"metadata": metadata, "store_data_equal_to_fill_value": True}
    return ts.open(spec, create=True).result()


def _spec(folder: Path, path: str) -> dict[str, Any]:
    return {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder / array_folder(path)}/"},
        "context": {
            "file_io_sync": False
        },  # the directory is synced as a whole, a thousand times faster than file by file
    }


def _bounded(chunk: Shape, itemsize: int) -> list[int]:
    """``chunk``, cut along its first axis longer than one into pieces of at most about
    :data:`CHUNK_BYTES`.
    """
    pieces = -(-int(np.prod(chunk)) * itemsize // CHUNK_BYTES)
    axis = next((axis for axis, size in enumerate(chunk) if size > 1), 0)
    return [-(-size // pieces) if i == axis else size for i, size in enumerate(chunk)]


_HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"


def _tree_metadata(paths: list[str]) -> dict[str, Any]:
    """Orbax's description of a tree of nested dictionaries (its key type 2) whose leaves restore as
    numpy arrays unless asked otherwise.
    """
    tree = {}
    for path in paths:
        keys = tuple(path.split("/"))
        tree[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    return {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
