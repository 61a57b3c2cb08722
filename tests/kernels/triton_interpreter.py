"""Triton's interpreter, which runs kernels with numpy, in another process: a process that compiles
kernels cannot interpret them.

It multiplies the bits of bfloat16 matrices: give those to no product. Its own rounding of float32
to bfloat16 and float8 is wrong, and is replaced by one that rounds to the nearest.
"""

import importlib
import os
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp8e4nv": ml_dtypes.float8_e4m3fn,
    "fp16": np.float16,
    "fp32": np.float32,
}
"""Numpy's dtypes by Triton's names; the interpreter holds the first two as integers."""


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


def _convert(bits, source, target, *_):
    """Floats of one dtype as bits of another, rounded to the nearest, ties to even."""
    rounded = bits.view(DTYPES[source.name]).astype(DTYPES[target.name])
    return rounded.view(f"uint{8 * rounded.itemsize}")


if __name__ == "__main__":
    sys.modules["torch"] = None  # Triton would import it, which takes seconds
    from triton.runtime import interpreter

    interpreter._convert_float = _convert
    outcome = [_run(*launch) for launch in pickle.load(sys.stdin.buffer)]
    sys.stdout.buffer.write(pickle.dumps(outcome))
