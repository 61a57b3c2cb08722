"""Devices in a mesh of two axes, and where arrays lie on it.

Batches are spread over both axes, parameters and what belongs to them (gradients, moments,
averages) over ``fsdp``; XLA gathers a layer's weights where they are used and scatters its
gradients.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from helios_jax.checkpoint.params import HOST_MEMORY
from helios_jax.config import ConfigError

DATA, FSDP = "data", "fsdp"

RULES = (
    # The axis that is spread, by the end of a leaf's path. Contracted axes stand first in a kernel,
    # behind the layers.
    (r"(.*/)?blocks/.*/(kernel|lora_a)", 1),
    (r"(.*/)?blocks/.*/lora_b", -1),
    (r".*/(kernel|lora_a)", -2),
    (r".*/lora_b", -1),
)


def make_mesh(data: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh of ``data`` x ``fsdp`` of the devices there are, in all processes; ``data`` 0 takes as
    many as that leaves.

    Raises:
      ConfigError: if they do not come out even.
    """
    devices = jax.devices()
    data = data or len(devices) // fsdp
    if data * fsdp != len(devices):
        raise ConfigError(
            f"a mesh of {data} (data) x {fsdp} (fsdp) devices does not fit {len(devices)} devices"
        )
    return Mesh(np.array(devices).reshape(data, fsdp), (DATA, FSDP))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Samples over all devices."""
    return NamedSharding(mesh, P((DATA, FSDP)))


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """The global batch, from the rows that each process has."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def leaf_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Where a parameter at ``path`` lies: spread by the first of :data:`RULES` that matches and
    whose axis divides, else on every device.
    """
    size = mesh.shape[FSDP]
    for pattern, axis in RULES:
        if size > 1 and re.fullmatch(pattern, path) and len(shape) >= abs(axis) + (axis > 0):
            axis %= len(shape)
            if shape[axis] % size == 0:
                return P(*[None] * axis, FSDP)
    return P()


def tree_shardings(tree: Any, mesh: Mesh, *, offload_blocks: bool = False) -> Any:
    """The sharding of every leaf of a tree of parameters, or of a state that holds such trees
    (moments lie where their parameter lies).

    Args:
      tree: arrays, abstract or not.
      mesh: of :func:`make_mesh`.
      offload_blocks: whether leaves below ``blocks`` are in host memory.
    """

    def place(path, leaf):
        names = [str(getattr(entry, "key", getattr(entry, "name", ""))) for entry in path]
        # Within a state, a parameter's path begins behind the last field of the state.
        names = [
            name for entry, name in zip(path, names) if isinstance(entry, jax.tree_util.DictKey)
        ]
        where = "/".join(names)
        memory = HOST_MEMORY if offload_blocks and where.startswith("blocks/") else None
        return NamedSharding(mesh, leaf_spec(where, leaf.shape, mesh), memory_kind=memory)

    return jax.tree_util.tree_map_with_path(place, tree)


def describe(tree: Any, mesh: Mesh) -> str:
    """A line on how many of a tree's bytes each device holds."""
    leaves = jax.tree.leaves(tree)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    shardings = jax.tree.leaves(tree_shardings(tree, mesh))
    own = sum(
        math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(leaves, shardings)
    )
    return f"{total / 1e6:,.0f} MB, {own / 1e6:,.0f} MB on each of {mesh.size} device(s)"
