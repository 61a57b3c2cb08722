"""Triton's interpreter, which runs kernels with numpy, in another process: a process that compiles
kernels cannot interpret them.

It truncates float32 to bfloat16 instead of rounding, and multiplies the bits of bfloat16 matrices:
give it float32 and float16.
"""

import importlib
import os
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np


class Launch(NamedTuple):
    """One run of a kernel: ``module:function``, its grid, its arrays (those it writes among them)
    and its constants by name.
    """

    kernel: str
    grid: tuple[int, ...]
    arrays: tuple[np.ndarray, ...]
    constants: dict[str, Any]


def interpret(*launches: Launch) -> list[tuple[np.ndarray, ...]]:
    """Run the kernels, one after another, and return the arrays of each as they are afterwards.
    Starting takes seconds: run several at once.
    """
    process = subprocess.run(
        [sys.executable, __file__],
        input=pickle.dumps([tuple(launch) for launch in launches]),
        stdout=subprocess.PIPE,
        env=os.environ | {"TRITON_INTERPRET": "1", "JAX_PLATFORMS": "cpu"},
        check=True,
    )
    return pickle.loads(process.stdout)


class _Tensor:
    """An array with the methods of a torch tensor that the interpreter calls when it takes an
    argument and hands it back.

    It is its own storage and its own copy on the host: nothing is moved.
    """

    device = "cpu"

    def __init__(self, array):
        self.array = np.array(array, order="C")
        self.dtype = array.dtype.name

    def data_ptr(self):
        return self.array.ctypes.data

    def size(self):
        return self.array.shape

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def storage_offset(self):
        return 0

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def new_empty(self, size, device):
        return self

    def set_(self, *_):
        return None

    def copy_(self, *_):
        return None


def _run(kernel, grid, arrays, constants):
    module, _, name = kernel.partition(":")
    tensors = [_Tensor(array) for array in arrays]
    getattr(importlib.import_module(module), name)[grid](*tensors, **constants)
    return tuple(tensor.array for tensor in tensors)


if __name__ == "__main__":
    sys.modules["torch"] = None  # Triton would import it, which takes seconds
    outcome = [_run(*launch) for launch in pickle.load(sys.stdin.buffer)]
    sys.stdout.buffer.write(pickle.dumps(outcome))
