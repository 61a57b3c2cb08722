"""Adapters merged into our parameter trees: into leaves that are on disk, and into arrays.

A leaf joins parts of several torch tensors (layers, q, k and v). Each part is turned into the torch
tensor, changed as a conversion changes it, and turned back, so that a checkpoint that is loaded
with an adapter has the weights of one that was converted with it. Only leaves that an adapter
changes are computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from helios_jax.checkpoint.adapters import Adapter
from helios_jax.checkpoint.component import StoredLeaf
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.layout import Index, Slot
from helios_jax.models.layer_stack import is_separate_leaf
from helios_jax.types import Params

THREADS = 4
"""Parts of a leaf that are changed side by side; each takes about 1 GB in a block of the 14B model.
"""

ReadPart = Callable[[Index], np.ndarray]


def adapt_stored(
    stored: Mapping[str, StoredLeaf],
    slots: Sequence[Slot],
    adapters: Sequence[Adapter],
    dtypes: Callable[[str], Any] | None,
) -> dict[str, StoredLeaf]:
    """Leaves on disk with adapters merged in when they are read.

    Args:
      stored: of the transformer, by path.
      slots: its name table.
      adapters: in the order in which they are merged.
      dtypes: of each leaf by path, to which sums in float32 are rounded; None keeps those stored.

    Raises:
      CheckpointError: if an adapter does not fit.
    """
    changed = _changed(slots, adapters)
    found = dict(stored)
    for path, parts in changed.items():
        leaf = stored[path]
        dtype = leaf.dtype if dtypes is None else np.dtype(dtypes(path))
        read = functools.partial(_read_adapted, leaf.read, parts, adapters, dtype)
        found[path] = dataclasses.replace(leaf, dtype=dtype, read=read)
    return found


def adapt_params(params: Params, slots: Sequence[Slot], adapters: Sequence[Adapter]) -> Params:
    """The transformer's parameters with adapters merged in, in their dtypes and where they were.

    Leaves that nothing changes are those of ``params``; the others are computed on the host, one
    after another.

    Raises:
      CheckpointError: if an adapter does not fit, or changes a kernel that is rounded to eight
        bits.
    """
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    for path, parts in _changed(slots, adapters).items():
        if f"{path}_scale" in flat:
            raise CheckpointError(
                f"{path} is rounded to eight bits: merge adapters first, then quantize"
            )
        leaf = flat[path]
        layers = leaf if is_separate_leaf(leaf) else None
        values = np.asarray(leaf) if layers is None else np.stack([np.asarray(x) for x in layers])
        read = functools.partial(_part, values)
        changed = _read_adapted(read, parts, adapters, values.dtype, ())
        if layers is None:
            flat[path] = jax.device_put(changed, getattr(leaf, "sharding", None))
        else:
            pairs = zip(changed, layers)
            flat[path] = tuple(jax.device_put(new, old.sharding) for new, old in pairs)
    return unflatten_dict(flat, sep="/")


def _changed(slots: Sequence[Slot], adapters: Sequence[Adapter]) -> dict[str, list[Slot]]:
    """The slots that adapters change, by leaf; all adapters are checked."""
    for adapter in adapters:
        adapter.check({slot.name: slot.shape for slot in slots})
    changed: dict[str, list[Slot]] = {}
    for slot in slots:
        if any(slot.name in adapter.changes for adapter in adapters):
            changed.setdefault(slot.path, []).append(slot)
    return changed


def _read_adapted(
    read: ReadPart,
    slots: Sequence[Slot],
    adapters: Sequence[Adapter],
    dtype: np.dtype,
    index: Index,
) -> np.ndarray:
    """``leaf[index]`` with the parts in ``slots`` changed; all of the leaf is computed."""
    leaf = np.array(read(()), dtype)

    def change(slot: Slot) -> None:
        weight = slot.to_torch(read(slot.index)).astype(np.float32)
        for adapter in adapters:
            weight = adapter.apply(slot.name, weight)
        leaf[slot.index] = slot.to_jax(weight)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(change, slots):  # what a thread raises is raised here
            pass
    return leaf[index]


def _part(values: np.ndarray, index: Index) -> np.ndarray:
    return values[index]
