"""Digests of the leaves of a tree that lies on any mesh of any number of processes."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

Index = tuple[slice, ...]


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of any tree by path: keys, fields and positions joined with ``/``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digests(leaves: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each leaf, the sha256 of each part that a device holds, by the part's place
    (``"0:4,8:16"``); equal in all processes.
    """
    parts: list[Any] = []
    places_of_leaves: list[tuple[int, str]] = []
    for number, leaf in enumerate(leaves.values()):
        if isinstance(leaf, jax.Array):
            indices = leaf.sharding.devices_indices_map(leaf.shape).values()
            places = sorted({_place(index, leaf.shape) for index in indices})
            held = {
                _place(shard.index, leaf.shape): shard.data
                for shard in leaf.addressable_shards
                if shard.replica_id == 0
            }
        else:
            places = [_place((), np.shape(leaf))]
            held = dict.fromkeys(places, leaf) if jax.process_index() == 0 else {}
        places_of_leaves += [(number, place) for place in places]
        parts += [held.get(place) for place in places]
    with ThreadPoolExecutor() as threads:
        table = list(threads.map(_digest_of_part, parts))
    if jax.process_count() > 1:
        # Each part has one owner and is zero elsewhere, so that the sum is its digest.
        mine = np.array([list(bytes.fromhex(digest or "00" * 32)) for digest in table], np.uint8)
        everyones = multihost_utils.process_allgather(mine)
        table = [bytes(row).hex() for row in everyones.sum(0, dtype=np.uint8)]
    found: list[dict[str, str]] = [{} for _ in leaves]
    for (number, place), digest in zip(places_of_leaves, table):
        found[number][place] = digest
    return found


def altered_leaves(
    leaves: Mapping[str, Any], recorded: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Names of the leaves whose values do not have the digests that :func:`digests` gave, on
    whatever mesh they are now.
    """

    def is_altered(name: str) -> bool:
        leaf = leaves[name]
        spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        values = multihost_utils.process_allgather(leaf, tiled=True) if spread else np.asarray(leaf)
        return any(
            sha256(values[_index(place)]) != digest for place, digest in recorded[name].items()
        )

    # Processes gather a leaf together, so in the same order.
    max_workers = 1 if jax.process_count() > 1 else None
    with ThreadPoolExecutor(max_workers) as threads:
        return [name for name, altered in zip(leaves, threads.map(is_altered, leaves)) if altered]


def sha256(values: np.ndarray | np.generic | bytes) -> str:
    """The digest of an array's values in C order, or of bytes."""
    if isinstance(values, bytes):
        return hashlib.sha256(values).hexdigest()
    content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return hashlib.sha256(content.data).hexdigest()


def _digest_of_part(part: Any) -> str:
    """The digest of a part, empty for one that another process holds."""
    return "" if part is None else sha256(np.asarray(part))


def _place(index: Index, shape: tuple[int, ...]) -> str:
    """``"0:4,8:16"``: where a part begins and ends along each axis."""
    axes = []
    for at, size in zip(index or [slice(None)] * len(shape), shape):
        start, stop, _ = at.indices(size)
        axes.append(f"{start}:{stop}")
    return ",".join(axes)


def _index(place: str) -> Index:
    """The inverse of :func:`_place`."""
    return tuple(slice(*map(int, axis.split(":"))) for axis in place.split(",") if axis)
