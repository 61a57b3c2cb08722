"""Memory that programs take on a GPU, known by compiling them for it on a machine without one.

The compiler is the one that would run on the GPU, and its own account of a program's buffers is
what is reported. It works in a process of its own: JAX is started there without a GPU whatever the
machine has, and what the compiler prints stays out of the way.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from helios_jax.errors import HeliosError
from helios_jax.memory import compiler as deviceless

GIB = 2**30


class PlanError(HeliosError, RuntimeError):
    """Programs could not be compiled; the message says why."""


class CompilerAbsentError(PlanError):
    """There is no compiler for GPUs here; the message says what is missing."""


class Program(NamedTuple):
    """A jitted function of arrays, and its arguments; ``jax.ShapeDtypeStruct`` stands for an array."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class ProgramMemory(NamedTuple):
    """Bytes of one program, as the compiler counts them.

    Attributes:
      arguments, outputs: of the arrays that go in and come out, on the device.
      aliased: of the outputs that take the place of donated arguments.
      temporary: of everything between.
      host: of arrays in host memory, save arguments.
      seconds: that tracing and compilation took here.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    host: int
    seconds: float

    @property
    def working(self) -> int:
        """Bytes needed on the device beside the arguments."""
        return self.temporary + self.outputs - self.aliased


class Plan(NamedTuple):
    """Bytes that a job needs.

    Attributes:
      resident: device memory that is held throughout, by part.
      working: device memory of each program beside that, while it runs; they run one after another.
      before: device memory of what has come and gone before the rest is loaded, weights included.
      host: host memory, by part.
      source: how the working memory is known.
      unseen: what is not in it.
    """

    resident: dict[str, int]
    working: dict[str, int]
    before: dict[str, int]
    host: dict[str, int]
    source: str
    unseen: str

    @property
    def peak(self) -> int:
        """Most device memory in use at once."""
        return max(
            [sum(self.resident.values()) + max(self.working.values()), *self.before.values()]
        )

    def __str__(self) -> str:
        """A table, in GiB."""
        held = sum(self.resident.values())
        lines = [
            "device memory",
            *_rows(self.resident),
            f"working memory beside it, one program at a time, {self.source}",
        ]
        lines += [
            f"{row}, {(held + size) / GIB:.2f} in all"
            for row, size in zip(_rows(self.working), self.working.values())
        ]
        if self.before:
            lines += ["device memory before the rest is loaded", *_rows(self.before)]
        lines += [f"not seen: {self.unseen}", "host memory", *_rows(self.host)]
        return "\n".join(lines)


def program_memory(
    programs: str, arguments: Mapping[str, Any], target: str
) -> Iterator[tuple[str, ProgramMemory]]:
    """Compile programs for a GPU in a process of its own, and yield the memory of each as soon as
    it is known.

    Args:
      programs: ``"package.module:function"`` that returns ``{name: Program}``; imported where the
        compiling is done.
      arguments: of that function, by name; what JSON can carry.
      target: a key of :data:`helios_jax.memory.compiler.TARGETS`.

    Yields:
      Name and memory of each program.

    Raises:
      CompilerAbsentError: if nothing can be compiled for a GPU here.
      PlanError: if one of the programs cannot be compiled.
    """
    command = [sys.executable, "-m", __name__, json.dumps([programs, arguments, target])]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
        ) as process,
    ):
        try:
            for line in process.stdout:
                outcome, name, result = json.loads(line)
                if outcome == "absent":
                    raise CompilerAbsentError(result)
                if outcome == "failed":
                    raise PlanError(f"{name} cannot be compiled for {target}: {result}")
                yield name, ProgramMemory(*result)
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            complaints.seek(0)
            last = next(
                (line for line in reversed(complaints.read().splitlines()) if line.strip()),
                f"exit status {process.returncode}",
            )
            raise PlanError(f"compiling {programs} for {target} ended with: {last}")


def measure(program: Program, target: str) -> ProgramMemory:
    """Compile one program in this process, where :func:`helios_jax.memory.compiler.unavailable`
    says nothing against it.
    """
    began = time.perf_counter()
    stats = deviceless.compile_for(program.function, *program.args, target=target).memory_analysis()
    return ProgramMemory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.host_output_size_in_bytes + stats.host_temp_size_in_bytes,
        time.perf_counter() - began,
    )


def _rows(parts: dict[str, int]) -> list[str]:
    return [f"  {part:<34}{size / GIB:8.2f} GiB" for part, size in parts.items()]


def main() -> None:
    """What the process that compiles does: one line of JSON a program, with its memory or with what
    went wrong.
    """
    programs, arguments, target = json.loads(sys.argv[1])
    tell = lambda *outcome: print(json.dumps(outcome), flush=True)
    if reason := deviceless.unavailable():
        tell("absent", "", reason)
        return
    module, _, function = programs.partition(":")
    name = programs
    try:
        for name, program in getattr(importlib.import_module(module), function)(
            **arguments
        ).items():
            tell("compiled", name, measure(program, target))
    except Exception as error:  # whatever it is, it is the other process's to report
        tell("failed", name, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
