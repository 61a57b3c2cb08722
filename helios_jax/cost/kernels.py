"""The kernels of a compiled program: what each is, how often it runs, its operations and its bytes.

Bytes are those that a kernel must read and write, each array once: of a slice the slice, of an
update in place the update.
"""

import collections
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from helios_jax.cost.graphs import Graphs, count_graphs, loop_turns
from helios_jax.cost.hlo import HOST_SPACE, Computation, Instruction, Module, Shape, parse
from helios_jax.cost.traffic import MOVEMENT, fusion_operations, fusion_traffic, opcodes

MATMUL = "matrix products"
ATTENTION = "attention"
ATTENTION_BACKWARD = "attention, backward"
CONVOLUTION = "convolutions"
FUSED = "fused kernels"
ELEMENTWISE = "elementwise and sums"
ARGUMENT_COPIES = "weight copies"
BIAS = "bias passes"
PADDING = "padding around products"
LAYOUT = "copies and layout"
EXCHANGE = "exchanges between devices"

GROUPS = (
    MATMUL,
    ATTENTION,
    ATTENTION_BACKWARD,
    CONVOLUTION,
    FUSED,
    ELEMENTWISE,
    ARGUMENT_COPIES,
    BIAS,
    PADDING,
    LAYOUT,
    EXCHANGE,
)
"""Kinds of kernels, in the order of the table."""


class Kernel(NamedTuple):
    """A kind of launch.

    Attributes:
      group: one of :data:`GROUPS`.
      operations: of one launch; a multiplication and an addition are two.
      read, written: bytes of one launch, in device memory.
      host: bytes of one launch from or to the memory of the host.
      times: launches.
      matrix: of a product: batch, rows, columns, contracted; else empty.
      dtype: of the operands of a product, ``bf16``.
      again: whether it computes in a backward pass what the forward pass has computed.
    """

    group: str
    operations: float = 0.0
    read: float = 0.0
    written: float = 0.0
    host: float = 0.0
    times: float = 1.0
    matrix: tuple[int, ...] = ()
    dtype: str = ""
    again: bool = False


class Count(NamedTuple):
    """What a program launches.

    Attributes:
      kernels: equal ones joined.
      notes: what was not known and is assumed, a sentence each.
      graphs: the CUDA graphs that launch them, where that is known.
    """

    kernels: tuple[Kernel, ...]
    notes: tuple[str, ...] = ()
    graphs: Graphs | None = None


def count(text: str, listed: str | None = None) -> Count:
    """The kernels of a program, from the text of its optimised HLO.

    A loop without a known number of turns is counted once, and a branch by its longest way.

    Args:
      text: of ``jax.stages.Compiled.as_text()`` for a GPU.
      listed: what the compiler lists of the program, for its CUDA graphs; see :mod:`.graphs`.

    Raises:
      ValueError: if that is not the text of a module.
    """
    counter = _Counter(parse(text))
    launches: collections.Counter[Kernel] = collections.Counter()
    for kernel in counter.walk(counter.module.entry, 1.0):
        # pyrefly: ignore[unsupported-operation]
        launches[kernel._replace(times=1.0)] += kernel.times
    notes = []
    if counter.unknown_loops:
        notes.append(f"{counter.unknown_loops} loop(s) of unknown length are counted once")
    if counter.branches:
        notes.append(f"of {counter.branches} branch(es) the longest way is counted")
    kernels = tuple(kernel._replace(times=times) for kernel, times in launches.items())
    graphs = None if listed is None else count_graphs(listed, loop_turns(counter.module))
    return Count(kernels, tuple(notes), graphs)


FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
}
"""Instructions that launch nothing."""

DATA = ("state.window", "state.anchor", "noise", "latents", "batch")
"""Beginnings of the names of arguments that are computed on, and are no weights."""

EXCHANGES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-",
    "send",
    "recv",
)


class _Counter:
    """Goes through a module and yields its launches."""

    def __init__(self, module: Module):
        self.module = module
        self.users = {name: comp.users() for name, comp in module.computations.items()}
        self.callers: dict[str, tuple[str, Instruction]] = {}
        for name, computation in module.computations.items():
            for instruction in computation.instructions.values():
                if instruction.opcode in ("while", "call"):
                    for called in instruction.called():
                        self.callers.setdefault(called, (name, instruction))
        self.unknown_loops = 0
        self.branches = 0

    def walk(self, name: str, times: float) -> Iterator[Kernel]:
        """Launches of a computation that runs ``times`` times."""
        for instruction in self.module.computations[name].instructions.values():
            opcode = instruction.opcode
            if opcode in FREE or opcode.endswith("-done"):
                continue
            if opcode == "while":
                turns = instruction.attribute(r'known_trip_count":\{"n":"(\d+)"')
                self.unknown_loops += not turns
                body = instruction.attribute(r"body=%?([\w.\-]+)")
                yield from self.walk(body, times * int(turns or 1))
            elif opcode == "conditional":
                self.branches += 1
                ways = [list(self.walk(way, times)) for way in instruction.called()]
                yield from max(ways, key=_weight)
            elif opcode == "call" or opcode == "async-start":
                for called in instruction.called():
                    yield from self.walk(called, times)
            else:
                yield self.kernel(name, instruction)._replace(times=times)

    def kernel(self, name: str, instruction: Instruction) -> Kernel:
        """One launch."""
        computation = self.module.computations[name]
        inputs = [computation.instructions[operand] for operand in instruction.operands]
        kernel = self._attributed(name, instruction, inputs)
        if any(shape.space == HOST_SPACE for one in inputs for shape in one.shapes):
            moved = min(kernel.read, kernel.written)
            kernel = kernel._replace(host=moved, read=kernel.read - moved)
        elif any(shape.space == HOST_SPACE for shape in instruction.shapes):
            moved = min(kernel.read, kernel.written)
            kernel = kernel._replace(host=moved, written=kernel.written - moved)
        again = "rematted_computation" in instruction.op_name
        return kernel._replace(again=again)

    def _attributed(self, name: str, instruction: Instruction, inputs: list[Instruction]) -> Kernel:
        """A launch by what it calls."""
        opcode = instruction.opcode
        target = instruction.target
        if opcode == "custom-call" and "cublas" in target:
            return product(instruction, inputs)
        if opcode == "custom-call" and "fmha" in target:
            return cudnn_attention(instruction, inputs)
        if (opcode == "custom-call" and "cudnn$conv" in target) or opcode == "convolution":
            return convolution(instruction, inputs)
        if opcode == "custom-call":
            return custom_call(instruction, inputs)
        if opcode in ("fusion", "fusion-start"):
            return self._fusion(name, instruction, inputs)
        read = _bytes(inputs)
        written = float(instruction.bytes)
        if opcode.startswith(EXCHANGES):
            return Kernel(EXCHANGE, 0.0, read, written)
        if opcode in ("copy", "copy-start") or opcode in MOVEMENT:
            if opcode == "copy-start":
                read = written = float(instruction.shapes[0].bytes)
            elif "slice" in opcode:
                read = written
            group = self._movement(name, instruction, {opcode})
            return Kernel(group, 0.0, read, written)
        return Kernel(ELEMENTWISE, 0.0, read, written)

    def _fusion(self, name: str, instruction: Instruction, inputs: list[Instruction]) -> Kernel:
        """A kernel that XLA wrote."""
        body = self.module.computations[instruction.attribute(r"calls=%?([\w.\-]+)")]
        read, written = fusion_traffic(body)
        operations = fusion_operations(body)
        found = opcodes(body)
        if found <= MOVEMENT | {"convert"}:
            group = self._movement(name, instruction, found)
        elif _pads(body) and self._feeds_product(name, instruction.name):
            group = PADDING  # with what made the rows
        elif self._adds_bias(name, instruction, inputs, found):
            group = BIAS
        else:
            group = ELEMENTWISE
        return Kernel(group, operations, read, written)

    def _movement(self, name: str, instruction: Instruction, found: set[str]) -> str:
        """The group of a kernel that moves data and computes nothing."""
        if "broadcast" in found and self._feeds_product(name, instruction.name):
            return BIAS
        # Rows that are turned into place are written in any case, and spare ones with them.
        pads = "pad" in found and "transpose" not in found
        if pads and self._feeds_product(name, instruction.name):
            return PADDING
        if "concatenate" not in found and "dynamic-update-slice" not in found:
            largest = max(instruction.operands, key=lambda one: self._size(name, one), default="")
            argument = self.argument(name, largest) if largest else None
            if argument and not argument.op_name.startswith(DATA):
                return ARGUMENT_COPIES
            if "slice" in found and self._is_product(name, largest):
                return PADDING
        return LAYOUT

    def _size(self, name: str, operand: str) -> int:
        return self.module.computations[name].instructions[operand].bytes

    def _adds_bias(
        self, name: str, instruction: Instruction, inputs: list[Instruction], found: set[str]
    ) -> bool:
        """Whether a fusion adds to a matrix product what the product's own epilogue could."""
        allowed = MOVEMENT | {"convert", "add"}
        large = [one for one in inputs if one.bytes * 4 >= instruction.bytes]
        return (
            found <= allowed
            and "add" in found
            and len(large) == 1
            and self._is_product(name, large[0].name)
        )

    def _is_product(self, name: str, operand: str) -> bool:
        """Whether this is a matrix product's result."""
        instructions = self.module.computations[name].instructions
        while operand in instructions:
            instruction = instructions[operand]
            if "cublas" in instruction.target:
                return True
            if instruction.opcode not in ("get-tuple-element", "bitcast", "reshape"):
                return False
            operand = instruction.operands[0]
        return False

    def _feeds_product(self, name: str, operand: str) -> bool:
        """Whether every user of this is a matrix product."""
        waiting = [operand]
        found = False
        while waiting:
            for user in self.users[name][waiting.pop()]:
                if user.opcode in ("bitcast", "get-tuple-element"):
                    waiting.append(user.name)
                elif "cublas" in user.target:
                    found = True
                else:
                    return False
        return found

    def argument(self, name: str, operand: str) -> Instruction | None:
        """The argument of the program that this is as it came, through any loops; or None."""
        path: list[int] = []
        while True:
            computation = self.module.computations[name]
            instruction = computation.instructions[operand]
            if instruction.opcode in ("bitcast", "copy-done", "opt-barrier"):
                operand = instruction.operands[0]
            elif instruction.opcode == "get-tuple-element":
                path.append(instruction.number)
                operand = instruction.operands[0]
            elif instruction.opcode == "tuple" and path:
                operand = instruction.operands[path.pop()]
            elif instruction.opcode == "while" and path:
                body = instruction.attribute(r"body=%?([\w.\-]+)")
                if not self._carried(body, path[-1]):
                    return None
                operand = instruction.operands[0]
            elif instruction.opcode == "parameter":
                if name == self.module.entry:
                    return instruction
                if name not in self.callers:
                    return None
                caller, call = self.callers[name]
                if call.opcode == "while" and not (path and self._carried(name, path[-1])):
                    return None
                name, operand = caller, call.operands[instruction.number]
            else:
                return None

    def _carried(self, body: str, element: int) -> bool:
        """Whether a loop hands this element of its tuple on as it is."""
        computation = self.module.computations[body]
        root = computation.instructions[computation.root]
        if root.opcode != "tuple":
            return False
        one = computation.instructions[root.operands[element]]
        while one.opcode == "bitcast":
            one = computation.instructions[one.operands[0]]
        if one.opcode != "get-tuple-element" or one.number != element:
            return False
        return computation.instructions[one.operands[0]].opcode == "parameter"


def _pads(body: Computation) -> bool:
    """Whether what a fusion writes is rows and padding behind them."""
    result = body.instructions[body.root]
    while result.opcode in ("bitcast", "reshape"):
        result = body.instructions[result.operands[0]]
    return result.opcode == "pad"


def _weight(kernels: Iterable[Kernel]) -> float:
    """A measure by which the ways of a branch are compared: bytes and operations of an H200."""
    total = 0.0
    for one in kernels:
        total += one.times * max(one.operations / 7e14, (one.read + one.written) / 4e12)
    return total


def _bytes(instructions: Iterable[Instruction]) -> float:
    """Bytes of arrays, each once."""
    return float(sum({one.name: one.bytes for one in instructions}.values()))


def product(instruction: Instruction, inputs: list[Instruction]) -> Kernel:
    """A matrix product of cuBLAS."""
    left, right = inputs[0].shapes[0], inputs[1].shapes[0]

    def axes(kind: str) -> list[int]:
        listed = instruction.attribute(rf'"{kind}_dimensions":\[([^\]]*)\]')
        return [int(axis) for axis in re.findall(r"\d+", listed)]

    batch = math.prod(left.dims[axis] for axis in axes("lhs_batch"))
    contracted = math.prod(left.dims[axis] for axis in axes("lhs_contracting"))
    rows = left.size // (batch * contracted)
    columns = right.size // (batch * contracted)
    results = instruction.shapes
    if len(results) > 1 and results[-1].dtype in ("s8", "u8"):
        results = results[:-1]  # the workspace
    # The fourth input of an 8-bit product and the like are scalars; a third is added to the result.
    written = 1.0 * sum(shape.bytes for shape in results)
    operations = 2.0 * batch * rows * columns * contracted
    matrix = (batch, rows, columns, contracted)
    return Kernel(MATMUL, operations, _bytes(inputs), written, matrix=matrix, dtype=left.dtype)


def cudnn_attention(instruction: Instruction, inputs: list[Instruction]) -> Kernel:
    """Fused attention of cuDNN: 4 S d K operations forward, 10 backward."""
    listed = instruction.attribute(r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]')
    scores = math.prod(int(size) for size in re.findall(r"\d+", listed))
    backward = "Backward" in instruction.target
    written = 1.0 * sum(shape.bytes for shape in instruction.shapes if shape.dtype != "u8")
    return Kernel(
        ATTENTION_BACKWARD if backward else ATTENTION,
        (10.0 if backward else 4.0) * scores * inputs[0].shapes[0].dims[-1],
        _bytes(inputs),
        written,
    )


def convolution(instruction: Instruction, inputs: list[Instruction]) -> Kernel:
    """A convolution, forward or for a gradient: two operations a tap of each output and channel."""
    labels = instruction.attribute(r"dim_labels=(\w+->\w+)")
    _, kernel_labels, _ = re.split(r"_|->", labels)
    target = instruction.target
    result = instruction.shapes[0]
    if "BackwardInput" in target:
        outputs, kernel = inputs[0].shapes[0], inputs[1].shapes[0]
    elif "BackwardFilter" in target:
        outputs, kernel = inputs[1].shapes[0], result
    else:
        outputs, kernel = result, inputs[1].shapes[0]
    taps = kernel.size / kernel.dims[kernel_labels.index("o")]
    written = 1.0 * sum(shape.bytes for shape in instruction.shapes if shape.dtype != "u8")
    return Kernel(CONVOLUTION, 2.0 * outputs.size * taps, _bytes(inputs), written)


def custom_call(instruction: Instruction, inputs: list[Instruction]) -> Kernel:
    """A kernel of the project's own, or of another library.

    An operand in place of an absent array is the same one twice, and counts once. A result that
    takes the place of an operand is written where another operand has rows for it.
    """
    written = float(instruction.bytes)
    aliased = re.findall(
        r"output_to_operand_aliasing=\{(.*?)\}(?:,|$)", instruction.text.replace("{}: (", "{0}: (")
    )
    for listed in aliased:
        for output, operand in re.findall(r"\{(\d+)\}: \((\d+),", listed):
            others = [one.bytes for i, one in enumerate(inputs) if i != int(operand)]
            whole = instruction.shapes[int(output)].bytes
            written -= whole - min(whole, max(others, default=whole))
    operations = 0.0
    group = FUSED
    queries = [one.shapes[0] for one in inputs if len(one.shapes[0].dims) == 4]
    if "attention" in instruction.op_name and len(queries) >= 3:
        group = ATTENTION
        operations = 4.0 * queries[0].size * _tokens(queries[1], queries[0])
    return Kernel(group, operations, _bytes(inputs), written)


def _tokens(keys: Shape, queries: Shape) -> int:
    """Keys that each query sees, of arrays ``[B, S, K, d]``."""
    return keys.size * queries.dims[1] // queries.size
