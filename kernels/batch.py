"""Kernels on several devices, each of which computes for its own samples.

XLA does not know how a Triton or Mosaic kernel could be divided: it would gather every array on
every device. Whoever traces a program whose batch is spread says over what, and each kernel then
runs on what its device has.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec


class _Batch(NamedTuple):
    mesh: Mesh
    axes: tuple[str, ...]


_batch: contextvars.ContextVar[_Batch | None] = contextvars.ContextVar("batch", default=None)


@contextlib.contextmanager
def batch_over(mesh: Mesh, axes: tuple[str, ...]) -> Generator[None, None, None]:
    """What is traced inside has its batch spread over these axes of a mesh."""
    token = _batch.set(_Batch(mesh, axes))
    try:
        yield
    finally:
        _batch.reset(token)


def on_each_device(kernel: Callable[..., Any], *arrays: Any) -> Any:
    """``kernel(*arrays)``, of each device's own samples under :func:`batch_over`.

    Arrays of three axes and more whose first is as long as the first array's are split, others are
    on every device, as is everything where samples cannot be shared out evenly.

    Args:
      kernel: of arrays, trees of them or None; its results have the samples first.
      *arrays: the first one has the samples first.
    """
    found = _batch.get()
    if found is None or found.mesh.size == 1:
        return kernel(*arrays)
    samples = arrays[0].shape[0]
    devices = math.prod(found.mesh.shape[axis] for axis in found.axes)
    spread = PartitionSpec(found.axes if samples % devices == 0 else None)

    def place(array):
        has_samples = array.ndim >= 3 and array.shape[0] == samples
        return spread if has_samples else PartitionSpec()

    return jax.shard_map(
        kernel,
        mesh=found.mesh,
        in_specs=jax.tree.map(place, arrays),
        out_specs=spread,
        check_vma=False,
    )(*arrays)
