"""Devices in a mesh of two axes, and the sharding of arrays on it.

Batches are spread over both axes, parameters and what belongs to them (gradients, moments,
averages) over ``fsdp``; XLA gathers a layer's weights where they are used and scatters its
gradients.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from helios_jax.checkpoint.params import HOST_MEMORY
from helios_jax.config import ConfigError
from helios_jax.kernels.batch import batch_over
from helios_jax.types import tree_bytes

DATA = "data"
FSDP = "fsdp"

BATCH = (DATA, FSDP)
"""The axes that batches are spread over."""

RULES = (
    (r"(.*/)?blocks/.*/(kernel|lora_a)", 1),
    (r"(.*/)?blocks/.*/lora_b", -1),
    (r".*/(kernel|lora_a)", -2),
    (r".*/lora_b", -1),
)
"""The axis that is spread, by the end of a leaf's path. Contracted axes stand first in a kernel,
behind the layers.
"""


def make_mesh(data: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh of ``data`` x ``fsdp`` devices: all there are, in all processes.

    Args:
      data: devices over which batches alone are spread; 0 takes as many as ``fsdp`` leaves.
      fsdp: devices over which parameters are spread, too.

    Raises:
      ConfigError: if there are more devices, or fewer.
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
    return NamedSharding(mesh, P(BATCH))


def over_batch(mesh: Mesh, f: Callable[..., Any]) -> Callable[..., Any]:
    """``f``, in which each device runs the kernels on its own samples."""

    @functools.wraps(f)
    def run(*args):
        with batch_over(mesh, BATCH):
            return f(*args)

    return run


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """The global batch, from the rows that each process has."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def leaf_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The spec of a parameter: spread by the first of :data:`RULES` that matches and whose axis
    divides, else on every device.

    Args:
      path: of the leaf, by ``/``.
      shape: of the leaf.
      mesh: of :func:`make_mesh`.
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
        # Within a state, fields of named tuples come before a parameter's path.
        keys = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        where = "/".join(keys)
        memory = HOST_MEMORY if offload_blocks and where.startswith("blocks/") else None
        return NamedSharding(mesh, leaf_spec(where, leaf.shape, mesh), memory_kind=memory)

    return jax.tree_util.tree_map_with_path(place, tree)


def describe(tree: Any, mesh: Mesh) -> str:
    """A line that says how many of a tree's bytes each device holds."""

    def own(leaf, place):
        return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    each = sum(jax.tree.leaves(jax.tree.map(own, tree, tree_shardings(tree, mesh))))
    total = tree_bytes(tree)
    return f"{total / 1e6:,.0f} MB, {each / 1e6:,.0f} MB on each of {mesh.size} device(s)"
