"""Bytes and operations of a kernel that XLA wrote, from the computation that it fuses."""

import math
import re

from helios_jax.cost.hlo import Computation, Instruction

MOVEMENT = {
    "bitcast",
    "broadcast",
    "concatenate",
    "copy",
    "dynamic-slice",
    "dynamic-update-slice",
    "gather",
    "pad",
    "reshape",
    "reverse",
    "slice",
    "transpose",
}
"""Instructions that move data and compute nothing."""

_SLICES = ("slice", "dynamic-slice", "gather")
_VIEWS = ("bitcast", "reshape")


def opcodes(computation: Computation) -> set[str]:
    """What a fused computation does to arrays; constants and arithmetic of indices apart."""
    found = set()
    for instruction in computation.instructions.values():
        is_index = all(not s.dims and s.dtype[0] in "sup" for s in instruction.shapes)
        if not is_index and instruction.opcode not in ("parameter", "constant", "tuple"):
            found.add(instruction.opcode)
    return found


def fusion_traffic(computation: Computation) -> tuple[float, float]:
    """Bytes that a fusion reads and writes."""
    users = computation.users()
    known: dict[str, float] = {}
    read = 0.0
    for parameter in computation.parameters().values():
        read += min(parameter.bytes, _read(parameter, users, known))
    root = computation.instructions[computation.root]
    results = [root]
    if root.opcode == "tuple":
        results = [computation.instructions[name] for name in root.operands]
    return read, float(sum(_written(result, computation) for result in results))


def _read(
    array: Instruction, users: dict[str, list[Instruction]], known: dict[str, float]
) -> float:
    """Bytes of an array that those who use it need; ``known`` are those of other arrays."""
    if array.name in known:
        return known[array.name]
    total = 0.0
    for user in users[array.name]:
        if user.opcode in _SLICES and user.operands[0] == array.name:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == array.name:
            continue  # stays where it is, save the update
        elif user.opcode in _VIEWS or _is_elementwise(user, array):
            # Of a result of which a slice is needed, no more is computed.
            needed = 1.0
            if users[user.name]:
                needed = _read(user, users, known) / max(user.bytes, 1)
            total += array.bytes * min(needed, 1.0)
        elif user.opcode == "tuple":
            continue
        else:
            total += array.bytes
    known[array.name] = total
    return total


def _is_elementwise(user: Instruction, array: Instruction) -> bool:
    """Whether each number of a result comes from the number at its place."""
    same = len(user.shapes) == 1 and user.shapes[0].dims == array.shapes[0].dims
    return same and user.opcode not in ("fusion", "custom-call", "sort", "reverse", "scatter")


def _written(result: Instruction, computation: Computation) -> int:
    """Bytes of a result that are written: of an update in place, the update."""
    while result.opcode in _VIEWS:
        result = computation.instructions[result.operands[0]]
    if result.opcode == "parameter":
        return 0
    if result.opcode == "dynamic-update-slice":
        return computation.instructions[result.operands[1]].bytes
    return result.bytes


def fusion_operations(computation: Computation) -> float:
    """Operations of the products that a fusion computes itself; its other arithmetic is free."""
    total = 0.0
    for instruction in computation.instructions.values():
        if instruction.opcode == "dot":
            left = computation.instructions[instruction.operands[0]].shapes[0]
            listed = instruction.attribute(r"lhs_contracting_dims=\{([^}]*)\}")
            contracted = math.prod(left.dims[int(axis)] for axis in re.findall(r"\d+", listed))
            total += 2.0 * instruction.shapes[0].size * contracted
    return total
