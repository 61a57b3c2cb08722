"""What NVIDIA's assembler reports of the Mosaic and Triton kernels of a program made for an H100.

Neither compiler has a public name for its assembly, so this is the one file that knows how to make
them write it.
"""

import contextlib
import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from helios_jax.memory import compiler as deviceless


class Assembled(NamedTuple):
    """A kernel.

    Attributes:
      name: its entry function.
      registers: of a thread.
      spilled: bytes of registers that a thread keeps in memory instead.
      shared_memory: bytes that Triton asks for a block; Mosaic refuses to compile what asks for
        more than there is.
    """

    name: str
    registers: int
    spilled: int
    shared_memory: int = 0


def compile_and_assemble(fn, *args):
    """The program compiled for an H100, as :func:`deviceless.compile_for` does, and its kernels.

    A Mosaic kernel that this process has compiled before is not compiled again, and so is missing.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        _mosaic_reports(folder),
        _triton_kernels() as triton_kernels,
    ):
        program = deviceless.compile_for(fn, *args)
        kernels = []
        for report in sorted(Path(folder).glob("*.ptxas")):
            kernels += _parse(report.read_text())
        for assembly, shared_memory in triton_kernels:
            path = Path(folder, "triton.ptx")
            path.write_text(assembly)
            command = [deviceless.assembler(), "-v", "-arch=sm_90a", str(path), "-o", os.devnull]
            report = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
            kernels += [kernel._replace(shared_memory=shared_memory) for kernel in _parse(report)]
    return program, kernels


def _parse(report: str) -> list[Assembled]:
    entry = re.compile(
        r"entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        re.DOTALL,
    )
    return [
        Assembled(name, int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in entry.findall(report)
    ]


def _mosaic_reports(folder: str):
    """Make Mosaic write the assembler's reports into this folder."""
    return mock.patch.dict(os.environ, MOSAIC_GPU_DUMP_TO=folder, MOSAIC_GPU_DUMP_PTXAS="1")


@contextlib.contextmanager
def _triton_kernels() -> Iterator[list[tuple[str, int]]]:
    """Assembly and shared memory of the kernels that jax-triton compiles meanwhile, which XLA would
    assemble only when the program starts.
    """
    made = []
    if importlib.util.find_spec("jax_triton") is None:
        yield made
        return
    from jax_triton import triton_lib

    compile_kernel = triton_lib.compile_ttir_to_ptx_inplace

    def compile_and_keep(*args, **kwargs):
        result = compile_kernel(*args, **kwargs)
        made.append((result.binary, result.shared_mem_bytes))
        return result

    with mock.patch.object(triton_lib, "compile_ttir_to_ptx_inplace", compile_and_keep):
        yield made
