"""The arrays of one component on disk: safetensors files whose tensors are the leaves of our tree.

``transformer/params.safetensors`` holds every leaf under its path, so that::

    flat = safetensors.numpy.load_file("transformer/params.safetensors")
    params = flax.traverse_util.unflatten_dict(flat, sep="/")

is the whole reader. A component of more than :data:`FILE_BYTES` is several files of whole leaves,
``params-00001-of-00003.safetensors`` and so on.

Safetensors rather than Orbax's zarr arrays, for a model of any size: the format is one page that
no release of a library changes, a small model is one file and not hundreds of chunks, and any part
of a leaf can be mapped into memory, which is what a device that needs its shard asks for. Writing
streams all the same: leaves are written one after another, layer by layer, and a layer of a leaf
is all that is in memory. Orbax's arrays, the first layout, are still read.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.checkpoint import zarr_arrays
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import FileTable, Progress
from helios_jax.checkpoint.layout import Index, Shape, Slot, leaves
from helios_jax.checkpoint.safetensors_files import (
    FLAX_METADATA,
    TorchTensor,
    read_file,
    write_folder,
)

FILE_STEM = "params"
FILE_BYTES = 5 * 10**9
"""Largest file, unless one leaf is larger; files are hashed and copied side by side."""

ReadSlot = Callable[[Slot], np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredLeaf:
    """A leaf on disk.

    Attributes:
      dtype: its dtype.
      shape: its shape.
      files: names of the files it is in, relative to the checkpoint.
      read: gives ``leaf[index]``; the array may be a read-only view of the file.
    """

    dtype: np.dtype
    shape: Shape
    files: tuple[str, ...]
    read: Callable[[Index], np.ndarray]


def open_component(files: FileTable, component: str) -> dict[str, StoredLeaf]:
    """The leaves of a component by path, without reading their values.

    Raises:
      CheckpointError: if the checkpoint does not have the component, or a file is missing, of
        another size, or has a damaged header.
    """
    names = files.under(component)
    if not names:
        others = sorted({name.partition("/")[0] for name in files.digests if "/" in name})
        raise CheckpointError(
            f"{files.root} has no {component}; it has: {', '.join(others) or 'no component'}"
        )
    files.check_sizes(names)
    if any(name.endswith(".safetensors") for name in names):
        return _open_safetensors(files, [name for name in names if name.endswith(".safetensors")])
    return _open_zarr(files, component, names)


@dataclasses.dataclass(frozen=True)
class _NewLeaf:
    """A leaf that is being written: its values come layer by layer.

    Attributes:
      dtype: its dtype.
      shape: its shape.
      pieces: gives the values in memory order, one row of the first axis after another.
    """

    dtype: np.dtype
    shape: Shape
    pieces: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def write_component(
    root: Path,
    component: str,
    slots: list[Slot],
    dtypes: Mapping[str, Any],
    read: ReadSlot,
    progress: Progress = lambda written: None,
) -> None:
    """Write a component's arrays, asking for one slot's values at a time.

    Args:
      root: the directory being made.
      component: its name.
      slots: its name table.
      dtypes: dtype of each leaf by path.
      read: the values of a slot, ``leaf[slot.index]``, in the leaf's dtype.
      progress: told the bytes of each piece written.
    """
    by_leaf: dict[str, list[Slot]] = {}
    for slot in slots:
        by_leaf.setdefault(slot.path, []).append(slot)
    tensors = {}
    for path, slot in leaves(slots).items():
        dtype = np.dtype(dtypes[path])
        pieces = functools.partial(_pieces, by_leaf[path], dtype, read)
        tensors[path] = _NewLeaf(dtype, slot.leaf_shape, pieces)
    write_folder(root / component, FILE_STEM, tensors, FILE_BYTES, progress, FLAX_METADATA)


def _pieces(slots: list[Slot], dtype: np.dtype, read: ReadSlot) -> Iterator[np.ndarray]:
    """The values of a leaf in memory order: row by row of its first axis where slots are rows, such
    as layers, else all of it.
    """
    for row, group in itertools.groupby(slots, key=_row):
        parts = list(group)
        if len(parts) == 1 and parts[0].index in ((), (row,)):
            yield read(parts[0])
            continue
        shape = parts[0].leaf_shape
        values = np.empty(shape if row is None else shape[1:], dtype)
        for slot in parts:
            values[slot.index if row is None else slot.index[1:]] = read(slot)
        yield values


def _row(slot: Slot) -> int | None:
    """Which row of the leaf's first axis a slot is in; None if it reaches over several."""
    first = slot.index[0] if slot.index else None
    return first if isinstance(first, int) else None


def _open_safetensors(files: FileTable, names: list[str]) -> dict[str, StoredLeaf]:
    found: dict[str, StoredLeaf] = {}
    for name in names:
        tensors, _ = read_file(files.path(name))
        for path, tensor in tensors.items():
            if path in found:
                raise CheckpointError(f"{files.path(name)}: {path} is in another file, too")
            read = functools.partial(_read_part, files.path(name), tensor)
            found[path] = StoredLeaf(tensor.dtype, tensor.shape, (name,), read)
    return found


def _read_part(file: Path, tensor: TorchTensor, index: Index) -> np.ndarray:
    try:
        return tensor.read()[index]
    except (ValueError, OSError) as error:  # changed since its header was read
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _open_zarr(files: FileTable, component: str, names: list[str]) -> dict[str, StoredLeaf]:
    by_leaf: dict[str, list[str]] = {}
    for name in names:
        array = name.split("/")[1]
        if name.count("/") == 2:
            by_leaf.setdefault(array.replace(".", "/"), []).append(name)
    found = {}
    for path, chunks in by_leaf.items():
        array = zarr_arrays.open_array(files.path(component), path)
        read = functools.partial(zarr_arrays.read_array, array)
        found[path] = StoredLeaf(array.dtype.numpy_dtype, tuple(array.shape), tuple(chunks), read)
    return found
