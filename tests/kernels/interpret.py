"""Pallas' interpreter of Mosaic GPU kernels, which runs them on a CPU with threads, barriers and
asynchronous copies.

It has no public name in jax 0.10 and 0.11, so this is the one file that imports the private one. It
checks values and synchronization, not layouts: a kernel that passes here can still fail to compile.
It runs Python for every copy and barrier, so keep shapes tiny. After an exception inside a kernel
the process must be started again.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from unittest import mock

from jax._src.pallas.mosaic.interpret.shared_memory import Buffer
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

INTERPRET = InterpretGPUParams(detect_races=True)
"""For a kernel's argument ``interpret``."""


@contextlib.contextmanager
def clipping_copies() -> Iterator[InterpretGPUParams]:
    """Parameters for kernels whose copies reach past the end of an array: as in hardware, they read
    zeros there and write nothing.
    """
    with mock.patch.object(Buffer, "__setitem__", Buffer.set_in_bounds_portion):
        yield dataclasses.replace(
            INTERPRET, out_of_bounds_reads="uninitialized", uninitialized_memory="zero"
        )


def raced() -> bool:
    """Whether two threads of the last kernel used the same memory, one of them writing, with no
    barrier between.
    """
    return gpu_callbacks.get_races().races_found
