"""The text of an optimised HLO module, read into computations and instructions.

XLA has no stable interface for what a compiled program launches; its text says all of it.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

HOST_SPACE = 5
"""The memory space, in a layout, of arrays in host memory."""

_BITS = {"pred": 8, "token": 0}


class Shape(NamedTuple):
    """An array.

    Attributes:
      dtype: as XLA writes it, ``bf16``.
      dims: its axes.
      space: its memory space; 0 is the device's memory.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes, without padding."""
        return self.size * _bits(self.dtype) // 8


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
      name: unique in the module.
      shapes: of its result; of every leaf where that is a tuple.
      opcode: ``fusion``, ``custom-call``, ``while``, ...
      operands: names of instructions of the same computation.
      text: the line after the operands: attributes and metadata.
      number: of a parameter, or of the element that ``get-tuple-element`` takes; else -1.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    number: int

    @property
    def target(self) -> str:
        """What a custom call calls."""
        return self.attribute(r'custom_call_target="([^"]+)"')

    @property
    def op_name(self) -> str:
        """The path of the JAX operation that it comes from."""
        return self.attribute(r'op_name="([^"]+)"')

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern: str) -> str:
        """The first group of a regular expression in :attr:`text`, or "" where it is not there."""
        found = re.search(pattern, self.text)
        return found.group(1) if found else ""

    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        names = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", self.text)
        for listed in re.findall(r"branch_computations=\{([^}]*)\}", self.text):
            names += re.findall(r"%?([\w.\-]+)", listed)
        names += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", self.text)
        return names


class Computation(NamedTuple):
    """Instructions by name, in the order in which they run.

    Attributes:
      instructions: by name.
      root: name of the result.
    """

    instructions: dict[str, Instruction]
    root: str

    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number."""
        found = self.instructions.values()
        return {one.number: one for one in found if one.opcode == "parameter"}

    def users(self) -> dict[str, list[Instruction]]:
        """For each instruction, those that it is an operand of."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in set(instruction.operands):
                found[operand].append(instruction)
        return found


class Module(NamedTuple):
    """A compiled program.

    Attributes:
      computations: by name.
      entry: name of the one that is run.
    """

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Read the text of ``jax.stages.Compiled.as_text()``.

    Raises:
      ValueError: if there is no entry computation in it.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    name = ""
    root = ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header.group(2)
            instructions = {}
            if header.group(1):
                entry = name
        elif line.startswith("}") and name:
            computations[name] = Computation(instructions, root)
            name = ""
        elif name and (instruction := _instruction(line)):
            instructions[instruction.name] = instruction
            if line.lstrip().startswith("ROOT "):
                root = instruction.name
    if not entry:
        raise ValueError("this is not the text of an HLO module: it has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    """The instruction of a line ``[ROOT] %name = shape opcode(operands), attributes``."""
    found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shapes(rest[:end]))
    rest = rest[end:].lstrip()
    opcode, _, after = rest.partition("(")
    close = _closing("(" + after) - 1
    arguments = after[: close - 1]
    attributes = after[close:]
    number = -1
    if opcode == "parameter":
        number = int(arguments)
    elif opcode == "get-tuple-element":
        number = int(re.findall(r"index=(\d+)", attributes)[0])
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(found.group(1), shapes, opcode, operands, attributes, number)


def _closing(text: str) -> int:
    """The position after the parenthesis that closes the first one."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return found.end()
    return len(text)


def _shapes(text: str) -> Iterator[Shape]:
    """The arrays of a shape, leaf by leaf."""
    for dtype, dims, layout in re.findall(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?", text):
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        space = re.search(r"S\((\d+)\)", layout)
        yield Shape(dtype, sizes, int(space.group(1)) if space else 0)


def _bits(dtype: str) -> int:
    """Bits of an element."""
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)
    return int(found.group(1)) if found else 0
