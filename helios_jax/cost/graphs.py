"""CUDA graphs: how many kernels of a compiled program are launched by one call for many of them.

XLA puts what stands between two operations that no graph can hold into one graph. Its HLO says
nothing of that; the list of what the program does at run time, which the compiler writes when it is
asked to dump, does.
"""

import re
from pathlib import Path
from typing import NamedTuple

from helios_jax.cost.hlo import Module

LISTS = ("*.thunk_sequence_after_thunk_passes.txt", "*.thunk_sequence.txt")
"""Names of the compiler's list among what it dumps, with graphs and, where there is none, without.
"""


CONTAINERS = ("AsyncStart", "Conditional", "DynamicSliceFusion", "Sequential")
"""What launches nothing itself; the list has what is inside."""


class Graphs(NamedTuple):
    """What a program launches, by CUDA graphs and beside them.

    Attributes:
      graphs: launches of graphs.
      held: launches of kernels, and copies, in them.
      kernels: all launches of kernels, and copies.
    """

    graphs: float = 0.0
    held: float = 0.0
    kernels: float = 0.0

    def __str__(self) -> str:
        graphs = "1 graph" if self.graphs == 1 else f"{self.graphs:.0f} graphs"
        return f"CUDA graphs: {self.held:.0f} of {self.kernels:.0f} kernels in {graphs}"


def read_list(folder: Path) -> str | None:
    """The compiler's list of the one program that was dumped into a folder; None without one."""
    for name in LISTS:
        for path in folder.glob(name):
            return path.read_text()
    return None


def count_graphs(listed: str, turns: list[int]) -> Graphs:
    """Graphs of a program.

    Args:
      listed: the text of the compiler's list, where what is inside another operation is indented.
      turns: of each loop, in the order of the list; a loop of unknown length has one.
    """
    remaining = list(turns)
    graphs = held = kernels = 0.0
    outside: list[tuple[int, float, bool]] = []  # indent, turns and whether it is a graph
    in_condition = False
    for line in listed.splitlines():
        if label := re.match(r"\s*(condition|body):", line):
            in_condition = label.group(1) == "condition"
        found = re.match(r"(\s*)\d+: k(\w+)", line)
        if not found or in_condition:  # of a loop of known length no condition is asked
            continue
        indent = len(found.group(1))
        kind = found.group(2)
        while outside and outside[-1][0] >= indent:
            outside.pop()
        times = outside[-1][1] if outside else 1.0
        in_graph = bool(outside) and outside[-1][2]
        if kind == "While":
            outside.append((indent, times * remaining.pop(0), in_graph))
        elif kind == "CommandBuffer":
            graphs += times
            outside.append((indent, times, True))
        elif kind in CONTAINERS:
            outside.append((indent, times, in_graph))
        elif not kind.endswith("Done"):
            kernels += times
            held += times * in_graph
    return Graphs(graphs, held, kernels)


def loop_turns(module: Module) -> list[int]:
    """Turns of each loop, in the order in which the program comes to them; 1 if not known."""
    found: list[int] = []

    def walk(name: str) -> None:
        for instruction in module.computations[name].instructions.values():
            if instruction.opcode == "while":
                turns = instruction.attribute(r'known_trip_count":\{"n":"(\d+)"')
                found.append(int(turns or 1))
            if instruction.opcode in ("while", "call", "conditional", "async-start"):
                for called in instruction.called():
                    walk(called)

    walk(module.entry)
    return found
