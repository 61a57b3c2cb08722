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
    parts, rows = [], []
    for number, leaf in enumerate(leaves.values()):
        if isinstance(leaf, jax.Array):
            places = sorted(
                {
                    _place(index, leaf.shape)
                    for index in leaf.sharding.devices_indices_map(leaf.shape).values()
                }
            )
            held = {
                _place(shard.index, leaf.shape): shard.data
                for shard in leaf.addressable_shards
                if shard.replica_id == 0
            }
        else:
            places = [_place((), np.shape(leaf))]
            held = dict.fromkeys(places, leaf) if jax.process_index() == 0 else {}
        rows += [(number, place) for place in places]
        parts += [held.get(place) for place in places]
    with ThreadPoolExecutor() as threads:
        table = list(
            threads.map(lambda part: "" if part is None else sha256(np.asarray(part)), parts)
        )
    if jax.process_count() > 1:
        mine = np.array([list(bytes.fromhex(digest or "00" * 32)) for digest in table], np.uint8)
        table = [
            bytes(row).hex()
            for row in multihost_utils.process_allgather(mine).sum(0, dtype=np.uint8)
        ]
    found: list[dict[str, str]] = [{} for _ in leaves]
    for (number, place), digest in zip(rows, table):
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

    one_after_the_other = (
        jax.process_count() > 1
    )  # processes gather leaves together, so in the same order
    with ThreadPoolExecutor(1 if one_after_the_other else None) as threads:
        return [name for name, altered in zip(leaves, threads.map(is_altered, leaves)) if altered]


def sha256(values: np.ndarray | np.generic | bytes) -> str:
    """The digest of an array's values in C order, or of bytes."""
    if not isinstance(values, bytes):
        values = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    return hashlib.sha256(values).hexdigest()


def _place(index: Index, shape: tuple[int, ...]) -> str:
    """``"0:4,8:16"``: where a part begins and ends along each axis."""
    index = index or tuple(slice(None) for _ in shape)
    return ",".join(
        f"{start}:{stop}" for start, stop, _ in (at.indices(size) for at, size in zip(index, shape))
    )


def _index(place: str) -> Index:
    """The inverse of :func:`_place`."""
    return tuple(slice(*map(int, axis.split(":"))) for axis in place.split(",") if axis)
