"""Where a PyTorch tensor lives in our parameter trees: one :class:`Slot` a tensor, read in both
directions.

A slot names the torch tensor and its shape, the leaf of our tree, the part of that leaf it fills
(layer ``i`` of a stack, q, k or v of a joined projection) and the axis order that turns one into
the other. From the slots of a component follow all the rest: the names and shapes a PyTorch file
must have, those of our tree, and the conversion both ways.
"""

import dataclasses
import math

import numpy as np

Shape = tuple[int, ...]
Index = tuple[int | slice, ...]
"""The leading part of an array's index: an integer or a slice for each of its first axes."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One torch tensor and its place in our tree.

    Attributes:
      name: the torch name, e.g. ``"blocks.3.attn1.to_k.weight"``.
      shape: the torch shape.
      path: the leaf, e.g. ``"blocks/attn1/qkv/kernel"``.
      leaf_shape: shape of the whole leaf.
      index: the part of the leaf that is this tensor: an integer or a full slice for each leading
        axis.
      axes: order in which the torch axes appear in the leaf; the permuted tensor is then reshaped
        to the part's shape.
    """

    name: str
    shape: Shape
    path: str
    leaf_shape: Shape
    index: Index
    axes: Shape

    @property
    def part_shape(self) -> Shape:
        """Shape of ``leaf[index]``."""
        kept = [size for size, at in zip(self.leaf_shape, self.index) if isinstance(at, slice)]
        return (*kept, *self.leaf_shape[len(self.index) :])

    def to_jax(self, tensor: np.ndarray) -> np.ndarray:
        """The torch tensor as ``leaf[index]``."""
        return _permute(tensor, self.axes).reshape(self.part_shape)

    def to_torch(self, part: np.ndarray) -> np.ndarray:
        """``leaf[index]`` as the torch tensor: the inverse of :meth:`to_jax`."""
        return _permute(
            part.reshape([self.shape[axis] for axis in self.axes]),
            tuple(np.argsort(self.axes).tolist()),
        )


def _permute(array: np.ndarray, axes: Shape) -> np.ndarray:
    """``array.transpose(axes)`` in C order.

    numpy moves unsigned integers faster than bfloat16, and a copy in strips of 64 columns stays in
    cache: 4 times faster for large kernels.
    """
    if axes == tuple(range(array.ndim)):
        return np.ascontiguousarray(array)
    source = array.view(f"u{array.dtype.itemsize}").transpose(axes)
    result = np.empty(source.shape, source.dtype)
    for start in range(0, source.shape[-1], 64):
        result[..., start : start + 64] = source[..., start : start + 64]
    return result.view(array.dtype)


def tensor(
    name: str, path: str, torch_shape: Shape, shape: Shape | None = None, axes: Shape | None = None
) -> list[Slot]:
    """A tensor that keeps its memory order (``axes`` None), perhaps in another ``shape``."""
    shape = torch_shape if shape is None else shape
    return [Slot(name, torch_shape, path, shape, (), axes or tuple(range(len(torch_shape))))]


def linear(
    name: str,
    path: str,
    ins: Shape,
    outs: Shape,
    part: tuple[int, int] | None = None,
    bias: bool = True,
) -> list[Slot]:
    """``torch.nn.Linear``, weight ``[out, in]``, as kernel ``[*ins, *outs]`` and bias ``[*outs]``.

    ``part=(j, n)`` makes it the ``j``-th of ``n`` projections joined in one leaf: kernel ``[*ins,
    n, *outs]``, bias ``[n, *outs]``.
    """
    index: Index = ()
    joined: Shape = ()
    kernel_index: Index = ()
    if part is not None:
        index = (part[0],)
        joined = (part[1],)
        kernel_index = (*[slice(None)] * len(ins), part[0])
    rows = math.prod(outs)
    shape = (rows, math.prod(ins))
    leaf_shape = (*ins, *joined, *outs)
    slots = [Slot(f"{name}.weight", shape, f"{path}/kernel", leaf_shape, kernel_index, (1, 0))]
    if bias:
        slots.append(Slot(f"{name}.bias", (rows,), f"{path}/bias", (*joined, *outs), index, (0,)))
    return slots


def conv(name: str, path: str, outs: int, ins: int, *kernel: int) -> list[Slot]:
    """``torch.nn.Conv2d`` or ``Conv3d``, weight ``[out, in, *kernel]``, as kernel ``[*kernel, in,
    out]`` and bias ``[out]``.
    """
    axes = (*range(2, 2 + len(kernel)), 1, 0)
    weight = tensor(
        f"{name}.weight", f"{path}/kernel", (outs, ins, *kernel), (*kernel, ins, outs), axes
    )
    return weight + tensor(f"{name}.bias", f"{path}/bias", (outs,))


def norm(name: str, path: str, width: int, bias: bool = False) -> list[Slot]:
    """A normalisation's ``weight`` (and ``bias``), as ``scale`` (and ``bias``)."""
    slots = tensor(f"{name}.weight", f"{path}/scale", (width,))
    return slots + (tensor(f"{name}.bias", f"{path}/bias", (width,)) if bias else [])


def stack(prefix: str, layers: int, block: list[Slot]) -> list[Slot]:
    """The slots of ``layers`` equal blocks named ``prefix.{i}.*``, stacked along a new first axis
    of every leaf.
    """
    slots = []
    for i in range(layers):
        for slot in block:
            slots.append(
                dataclasses.replace(
                    slot,
                    name=f"{prefix}.{i}.{slot.name}",
                    leaf_shape=(layers, *slot.leaf_shape),
                    index=(i, *slot.index),
                )
            )
    return slots


def leaves(slots: list[Slot]) -> dict[str, Slot]:
    """The leaves of a component by path, each with the first of its slots."""
    first: dict[str, Slot] = {}
    for slot in slots:
        first.setdefault(slot.path, slot)
    return first
