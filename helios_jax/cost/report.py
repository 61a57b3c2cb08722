"""The time that a program is predicted to take on a chip, by kind of kernel, and what of it is
waste.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from helios_jax.cost.chips import Chip, Rates
from helios_jax.cost.graphs import Graphs
from helios_jax.cost.kernels import (
    ARGUMENT_COPIES,
    ATTENTION,
    ATTENTION_BACKWARD,
    BIAS,
    CONVOLUTION,
    GROUPS,
    LAYOUT,
    MATMUL,
    PADDING,
    Count,
    Kernel,
)

TILES = {
    (128, 256): 1.0,
    (256, 128): 1.0,
    (128, 192): 0.98,
    (128, 128): 0.95,
    (64, 256): 0.90,
    (64, 128): 0.85,
    (64, 64): 0.70,
}
"""Rows and columns of the result that a multiprocessor computes at a time, and the share of a full
chip's rate that a product in such tiles has. Assumed; the best for each product is taken.
"""

WIDEST = (1, 11_040, 13_824, 5_120)
"""The product, as :attr:`Kernel.matrix`, on which a chip's rate is taken: the model's widest. Its
own last wave is part of that rate.
"""

WASTES = {
    ARGUMENT_COPIES: "weight copies",
    BIAS: "biases that no product's epilogue adds",
    PADDING: "padding and slicing around matrix products",
    LAYOUT: "other copies and changes of layout",
}
"""Groups of kernels that compute nothing, in words."""


class Line(NamedTuple):
    """Kernels of one group.

    Attributes:
      group: of :data:`helios_jax.cost.kernels.GROUPS`.
      launches: how many.
      operations: in all.
      bytes: read and written in device memory, in all.
      seconds: predicted, launch gaps apart.
    """

    group: str
    launches: float
    operations: float
    bytes: float
    seconds: float


class Prediction(NamedTuple):
    """The time of a program.

    Attributes:
      lines: by group.
      gaps: seconds between kernels.
      host: seconds that copies from and to the memory of the host take, beside the kernels.
      wastes: seconds by what they are lost to, largest first.
      notes: what was not known.
      graphs: the CUDA graphs that launch the kernels, where that is known.
    """

    lines: tuple[Line, ...]
    gaps: float
    host: float
    wastes: dict[str, float]
    notes: tuple[str, ...] = ()
    graphs: Graphs | None = None

    @property
    def seconds(self) -> float:
        """Of the whole program: kernels one after another, or what the host's memory takes if that
        is longer.
        """
        return max(sum(line.seconds for line in self.lines) + self.gaps, self.host)


def predict(count: Count, chip: Chip) -> Prediction:
    """The time of a program's kernels on a chip.

    A kernel takes the longer of its operations and its bytes, each at the chip's rate.
    """
    rates = chip.rates
    lines = []
    for group in GROUPS:
        found = [kernel for kernel in count.kernels if kernel.group == group]
        if found:
            lines.append(
                Line(
                    group,
                    sum(one.times for one in found),
                    sum(one.times * one.operations for one in found),
                    sum(one.times * (one.read + one.written) for one in found),
                    sum(one.times * kernel_seconds(one, chip) for one in found),
                )
            )
    gaps = rates.launch * sum(line.launches for line in lines)
    host = sum(one.times * one.host for one in count.kernels) / rates.host
    wastes = {words: _seconds(lines, group) for group, words in WASTES.items()}
    wastes["waves of tiles that do not fill the chip"] = _waves(count, chip)
    wastes["gaps between kernels"] = gaps
    again = [one for one in count.kernels if one.again]
    wastes["forward passes computed again"] = sum(
        one.times * kernel_seconds(one, chip) for one in again
    )
    ordered = sorted(wastes.items(), key=lambda item: -item[1])
    found = {words: seconds for words, seconds in ordered if seconds > 0}
    return Prediction(tuple(lines), gaps, host, found, count.notes, count.graphs)


def kernel_seconds(kernel: Kernel, chip: Chip) -> float:
    """Seconds of one launch."""
    moving = (kernel.read + kernel.written) / chip.rates.copy
    rate = _rate(kernel, chip.rates)
    if kernel.group == MATMUL:
        return max(_tiled_operations(kernel, chip) / rate, moving)
    return max(kernel.operations / rate, moving)


def _rate(kernel: Kernel, rates: Rates) -> float:
    """Operations a second."""
    if kernel.group == ATTENTION:
        return rates.attention
    if kernel.group == ATTENTION_BACKWARD:
        return rates.attention_backward
    if kernel.group == CONVOLUTION:
        return rates.convolution
    if kernel.dtype.startswith(("f8", "s8")):
        return rates.matmul_8bit
    # Of float32 operands the units read 19 bits, at half the rate.
    return rates.matmul / 2 if kernel.dtype == "f32" else rates.matmul


def _tiled_operations(kernel: Kernel, chip: Chip) -> float:
    """Operations of a product, with those that its edges and its last wave over the chip waste
    beyond what they do in :data:`WIDEST`.
    """
    waste = _tiled(kernel.matrix, chip) / kernel.operations
    usual = _tiled(WIDEST, chip) / (2.0 * math.prod(WIDEST))
    return kernel.operations * max(waste / usual, 1.0)


def _tiled(matrix: tuple[int, ...], chip: Chip) -> float:
    """Operations of whole waves of the best tiles."""
    batch, rows, columns, contracted = matrix
    found = []
    for (height, width), share in TILES.items():
        tiles = batch * math.ceil(rows / height) * math.ceil(columns / width)
        waves = math.ceil(tiles / chip.cores)
        found.append(2.0 * waves * chip.cores * height * width * contracted / share)
    return min(found)


def _waves(count: Count, chip: Chip) -> float:
    """Seconds that products take beyond what they would on a chip that they fill."""
    total = 0.0
    for one in count.kernels:
        if one.group == MATMUL:
            whole = (one.read + one.written) / chip.rates.copy
            full = max(one.operations / _rate(one, chip.rates), whole)
            total += one.times * (kernel_seconds(one, chip) - full)
    return total


def _seconds(lines: list[Line], group: str) -> float:
    return sum((line.seconds for line in lines if line.group == group), 0.0)


def table(name: str, prediction: Prediction) -> str:
    """A program's kernels as lines of text."""
    rows = [f"{name}: {prediction.seconds * 1e3:.1f} ms"]
    for line in prediction.lines:
        rows.append(
            f"  {line.group:<28}{line.launches:8.0f} launches{line.bytes / 1e9:10.1f} GB"
            f"{line.operations / 1e12:10.2f} TFLOP{line.seconds * 1e3:10.1f} ms"
        )
    gaps = "gaps between kernels"
    rows.append(f"  {gaps:<28}{'':37}{'':6}{prediction.gaps * 1e3:10.1f} ms")
    if prediction.host:
        host = "host memory, beside it"
        rows.append(f"  {host:<28}{'':37}{'':6}{prediction.host * 1e3:10.1f} ms")
    if prediction.graphs:
        rows.append(f"  {prediction.graphs}")
    return "\n".join([*rows, *(f"  {note}" for note in prediction.notes)])


def largest_wastes(predictions: Mapping[str, Prediction], most: int = 3) -> list[str]:
    """What programs lose most time to, in words: "weight copies 68.0 ms"."""
    total: dict[str, float] = {}
    for prediction in predictions.values():
        for words, seconds in prediction.wastes.items():
            total[words] = total.get(words, 0.0) + seconds
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return [f"{words} {seconds * 1e3:.1f} ms" for words, seconds in ordered[:most]]


def assumptions(chip: Chip) -> str:
    """The rates of a chip, and where they come from."""
    rates = chip.rates
    return (
        f"rates assumed of {chip.name}: matrix products {rates.matmul / 1e12:.0f} TFLOP/s (8 bits "
        f"{rates.matmul_8bit / 1e12:.0f}), attention {rates.attention / 1e12:.0f} (backward "
        f"{rates.attention_backward / 1e12:.0f}), convolutions {rates.convolution / 1e12:.0f}, "
        f"memory {rates.copy / 1e12:.2f} TB/s, host memory {rates.host / 1e9:.0f} GB/s, "
        f"{rates.launch * 1e6:.0f} us between kernels ({rates.source})"
    )


def as_dict(prediction: Prediction) -> dict[str, Any]:
    """For JSON, in seconds, bytes and operations."""
    return {
        "seconds": prediction.seconds,
        "kernels": [line._asdict() for line in prediction.lines],
        "gaps": prediction.gaps,
        "host": prediction.host,
        "wastes": prediction.wastes,
        "notes": list(prediction.notes),
        "graphs": prediction.graphs and prediction.graphs._asdict(),
    }
