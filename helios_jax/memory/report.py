"""Memory and time that programs take on a GPU, known by compiling them for it on a machine without
one.

The compiler is the one that would run on the GPU. Its own account of a program's buffers is what is
reported as memory; time is predicted from the kernels that it launches. It works in a process of
its own: JAX is started there without a GPU whatever the machine has, and what the compiler prints
stays out of the way.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from helios_jax.cost.chips import Chip
from helios_jax.cost.graphs import Graphs, read_list
from helios_jax.cost.kernels import Count, Kernel, count
from helios_jax.cost.report import Prediction, as_dict, assumptions, largest_wastes, table
from helios_jax.errors import HeliosError
from helios_jax.memory import compiler

GIB = 2**30


class PlanError(HeliosError, RuntimeError):
    """Programs could not be compiled; the message says why."""


class CompilerAbsentError(PlanError):
    """There is no compiler for GPUs here; the message says what is missing."""


class Program(NamedTuple):
    """A jitted function, and its arguments: trees of arrays or of ``jax.ShapeDtypeStruct``."""

    function: jax.stages.Wrapped
    args: tuple[Any, ...]


MakePrograms = Callable[..., dict[str, Program]]
"""Programs by name; a function of a module, so that another process can import it."""


class ProgramMemory(NamedTuple):
    """Bytes of one program, as the compiler counts them.

    Attributes:
      arguments, outputs: of the arrays that go in and come out, on the device.
      aliased: of the outputs that take the place of donated arguments.
      temporary: of everything between.
      host: of arrays in host memory, save arguments.
      seconds: that tracing and compilation took here.
      kernels: that it launches.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    host: int
    seconds: float
    kernels: Count = Count(())

    @property
    def working(self) -> int:
        """Bytes needed on the device beside the arguments."""
        return self.temporary + self.outputs - self.aliased


class MemoryPlan(NamedTuple):
    """Bytes that a job needs.

    Attributes:
      resident: device memory that is held throughout, by part.
      working: device memory of each program beside that, while it runs; they run one after another.
      before: device memory of what has come and gone before the rest is loaded, weights included.
      host: host memory, by part.
      source: how the working memory is known.
      unseen: what is not in it.
      times: predicted seconds of each program, where they were compiled.
    """

    resident: dict[str, int]
    working: dict[str, int]
    before: dict[str, int]
    host: dict[str, int]
    source: str
    unseen: str
    times: Mapping[str, Prediction] = MappingProxyType({})

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

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in bytes and seconds."""
        times = {name: as_dict(prediction) for name, prediction in self.times.items()}
        fields = self._asdict() | {"times": times}
        return {"peak": self.peak} | fields


def time_report(plan: MemoryPlan, chip: Chip, programs: Sequence[str]) -> str:
    """The predicted time of a job's programs as text: a table each, what is lost, and the rates.

    Args:
      plan: of the job.
      chip: that it is compiled for.
      programs: names of those that take the time of the job.
    """
    lines = [table(name, prediction) for name, prediction in plan.times.items()]
    lost = largest_wastes({name: plan.times[name] for name in programs})
    lines.append(f"of {' and '.join(programs)}, most is lost to: {', '.join(lost)}")
    return "\n".join([*lines, assumptions(chip)])


def program_memory(
    make_programs: MakePrograms, args: tuple[Any, ...], target: str
) -> Iterator[tuple[str, ProgramMemory]]:
    """Compile programs for a GPU in a process of its own, and yield the memory of each as soon as
    it is known.

    Args:
      make_programs: is called in that process.
      args: its arguments, which are pickled on the way.
      target: a key of :data:`helios_jax.memory.compiler.TARGETS`.

    Yields:
      Name and memory of each program.

    Raises:
      CompilerAbsentError: if nothing can be compiled for a GPU here.
      PlanError: if one of the programs cannot be compiled.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job")
        log = Path(folder, "log")
        job.write_bytes(pickle.dumps((make_programs, args, target)))
        command = [sys.executable, "-m", __name__, str(job)]
        with (
            log.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    yield _read_outcome(json.loads(line), target)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
            last = lines[-1] if lines else f"exit status {process.returncode}"
            raise PlanError(
                f"compiling {make_programs.__qualname__} for {target} ended with: {last}"
            )


def _read_outcome(outcome: list[Any], target: str) -> tuple[str, ProgramMemory]:
    """What the other process says of one program.

    Raises:
      CompilerAbsentError, PlanError: as :func:`program_memory`.
    """
    kind, name, result = outcome
    if kind == "absent":
        raise CompilerAbsentError(result)
    if kind == "failed":
        raise PlanError(f"{name} cannot be compiled for {target}: {result}")
    kernels, notes, graphs = result["kernels"]
    launches = tuple(Kernel(**kernel | {"matrix": tuple(kernel["matrix"])}) for kernel in kernels)
    counted = Count(launches, tuple(notes), graphs and Graphs(*graphs))
    return name, ProgramMemory(**result | {"kernels": counted})


def measure(program: Program, target: str) -> ProgramMemory:
    """Compile one program in this process, where :func:`helios_jax.memory.compiler.unavailable`
    says nothing against it.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_proto": True}
        compiled = compiler.compile_for(
            program.function, *program.args, target=target, options=dump
        )
        seconds = time.perf_counter() - began
        found = count(compiled.as_text() or "", read_list(Path(folder)))
    stats: Any = compiled.memory_analysis()
    return ProgramMemory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.host_output_size_in_bytes + stats.host_temp_size_in_bytes,
        seconds,
        found,
    )


def _rows(parts: dict[str, int]) -> list[str]:
    return [f"  {part:<34}{size / GIB:8.2f} GiB" for part, size in parts.items()]


def main() -> None:
    """The process that compiles: prints one line of JSON a program, with its memory or with what
    went wrong.
    """
    if reason := compiler.unavailable():
        _print("absent", "", reason)
        return
    make_programs, args, target = pickle.loads(Path(sys.argv[1]).read_bytes())
    name = make_programs.__qualname__
    try:
        # Shapes that depend on a kernel's choice are those of the chip, too.
        with compiler.tracing_for(target):
            programs = make_programs(*args)
        for name, program in programs.items():
            memory = measure(program, target)
            launches = [kernel._asdict() for kernel in memory.kernels.kernels]
            found = {"kernels": [launches, memory.kernels.notes, memory.kernels.graphs]}
            _print("compiled", name, memory._asdict() | found)
    except Exception as error:  # whatever it is, the other process reports it
        _print("failed", name, f"{type(error).__name__}: {error}")


def _print(kind: str, name: str, result: Any) -> None:
    print(json.dumps([kind, name, result]), flush=True)


if __name__ == "__main__":
    main()
