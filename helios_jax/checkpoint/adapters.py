"""Adapters: what a file changes in the transformer, checked, and the changed weights.

With strength s, a LoRA adds ``s (alpha / r) B A`` to a weight, where ``A [r, in]`` and
``B [out, r]``; for a convolution ``A`` has the kernel's shape behind its ``r``. The bias that PEFT
trains with ``B`` is scaled like it. A difference ``D`` gives ``W + s D``, and a tensor ``V`` that
is stored whole ``W + s (V - W)``.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.checkpoint.adapter_files import (
    AdapterFile,
    AdapterTensors,
    read_adapter_tensors,
    scale_of,
)
from helios_jax.checkpoint.adapter_names import (
    OTHER_KINDS,
    OTHER_MODELS,
    Naming,
    Part,
    best_naming,
    read_key,
)
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import sha256_of
from helios_jax.checkpoint.finite import is_finite
from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.safetensors_files import TorchTensor

MODELS = {1536: "1.3B", 3072: "5B", 5120: "14B"}
"""Wan's models by their width."""

MAX_KEY = 70
"""Characters of a key that a message shows."""


@dataclasses.dataclass(frozen=True)
class LowRank:
    """``W + s (alpha / r) B A``."""

    down: TorchTensor
    up: TorchTensor
    scale: float

    def __str__(self) -> str:
        return f"{list(self.up.shape)} x {list(self.down.shape)}"

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.down.shape[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.up.shape[0], math.prod(self.down.shape[1:])

    def fits(self, shape: Shape) -> bool:
        """Whether this can be a change of a weight of a shape."""
        return len(shape) > 1 and self.sizes == (shape[0], math.prod(shape[1:]))

    def apply(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """The changed weight, in float32."""
        A = self.down.read().astype(np.float32)
        B = self.up.read().astype(np.float32)
        factor = np.float32(strength * self.scale)
        change = (factor * B.reshape(B.shape[0], -1)) @ A.reshape(A.shape[0], -1)
        return weight + change.reshape(weight.shape)


@dataclasses.dataclass(frozen=True)
class Difference:
    """``W + s scale D``."""

    value: TorchTensor
    scale: float = 1.0

    def __str__(self) -> str:
        return str(list(self.value.shape))

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return _sizes(self.value.shape)

    def fits(self, shape: Shape) -> bool:
        """Whether this can be a change of a tensor of a shape."""
        return self.value.shape == shape

    def apply(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """The changed tensor, in float32."""
        return weight + np.float32(strength * self.scale) * self.value.read().astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Whole:
    """``W + s (V - W)``."""

    value: TorchTensor

    def __str__(self) -> str:
        return str(list(self.value.shape))

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return _sizes(self.value.shape)

    def fits(self, shape: Shape) -> bool:
        """Whether this can be a change of a tensor of a shape."""
        return self.value.shape == shape

    def apply(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """The changed tensor, in float32."""
        value = self.value.read().astype(np.float32)
        return value if strength == 1 else weight + np.float32(strength) * (value - weight)


Change = LowRank | Difference | Whole


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What one file changes, and how much of it is wanted.

    Attributes:
      file: that was read.
      strength: of every change.
      naming: whose names its keys have.
      changes: by the names of the base's tensors, in Diffusers' naming.
      settings: PEFT's, where the file came with some.
    """

    file: Path
    strength: float
    naming: Naming
    changes: Mapping[str, Sequence[Change]]
    settings: Mapping[str, Any]

    @functools.cached_property
    def record(self) -> str:
        """The adapter as saved requests say it: name, strength, and digits of its content."""
        settings = json.dumps(self.settings, sort_keys=True, default=str)
        content = hashlib.sha256(f"{sha256_of(self.file)} {settings}".encode())
        return f"{self.file.name}:{float(self.strength)} ({content.hexdigest()[:16]})"

    @property
    def ranks(self) -> list[int]:
        """The ranks of its pairs of factors."""
        pairs = (part for parts in self.changes.values() for part in parts)
        return sorted({part.rank for part in pairs if isinstance(part, LowRank)})

    def apply(self, name: str, weight: np.ndarray) -> np.ndarray:
        """A tensor of the base, in float32, with what this changes of it."""
        for change in self.changes.get(name, ()):
            weight = change.apply(weight, self.strength)
        return weight

    def check(self, base: Mapping[str, Shape]) -> None:
        """Check that every change has its tensor in a base, and fits it.

        Args:
          base: the shapes of its tensors by Diffusers' names.

        Raises:
          CheckpointError: in one line: of which size of model this is, or which keys do not fit.
        """
        wrong = {}
        for name, parts in self.changes.items():
            for part in parts:
                if name not in base:
                    wrong[name] = part, "has no place in the base"
                elif not part.fits(base[name]):
                    wrong[name] = part, f"is {part}, the base's is {list(base[name])}"
        if not wrong:
            return
        own = _common(_width(name, part) for name, (part, _) in wrong.items())
        width = _common(_width(name, Whole(_shaped(shape))) for name, shape in base.items())
        if own and width and own != width:
            raise CheckpointError(
                f"{self.file} is an adapter of {_model(own)}, and this is {_model(width)}: an "
                "adapter fits the model that it was trained on"
            )
        blocks = _blocks(base)
        if beyond := sorted(_blocks(self.changes) - blocks):
            raise CheckpointError(
                f"{self.file} changes blocks up to {beyond[-1]}, and this model has {len(blocks)}: "
                "an adapter fits the model that it was trained on"
            )
        told = {name: f" {remark}" for name, (_, remark) in wrong.items()}
        raise CheckpointError(f"cannot merge {self.file}: {show_keys(told)}")


def read_adapter(file: AdapterFile) -> Adapter:
    """Read an adapter, in any of the styles of :mod:`~helios_jax.checkpoint.adapter_names`.

    Raises:
      CheckpointError: in one line, if it is of another kind or of another model, has keys that say
        nothing, halves of pairs, ranks that differ, or values that are not finite.
    """
    found = read_adapter_tensors(file.path)
    naming = best_naming(found.tensors)
    parts = {key: read_key(key, naming) for key in found.tensors}
    if unknown := [key for key, part in parts.items() if part is None]:
        _refuse(found.file, list(found.tensors), unknown)
    known = {key: part for key, part in parts.items() if part is not None}
    _check_names(found.file, known)
    _check_ranks(found, known)
    _check_values(found)
    changes = _changes(found, known)
    if all(isinstance(change, Whole) for parts in changes.values() for change in parts):
        raise CheckpointError(
            f"{found.file} holds whole tensors and no adapter ({show_keys(list(known))}): give a "
            "transformer_partial as --partial, and a whole model as --source"
        )
    return Adapter(found.file, file.strength, naming, changes, found.settings)


def show_keys(keys: Iterable[str] | Mapping[str, str]) -> str:
    """How many keys there are, and the first three of them, each followed by its remark."""
    remarks = keys if isinstance(keys, Mapping) else dict.fromkeys(keys)
    first = []
    for key, remark in list(remarks.items())[:3]:
        name = key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..."
        first.append(f"{name}{remark if isinstance(remark, str) else ''}")
    more = f", and {len(remarks) - 3} more" if len(remarks) > 3 else ""
    return f"{', '.join(first)}{more}"


def counted(things: Sized, name: str) -> str:
    """How many things there are, with their name: "1 key", "2 keys"."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _changes(found: AdapterTensors, parts: Mapping[str, Part]) -> dict[str, list[Change]]:
    """The changes that parts make together, by the base's names."""
    by_role: dict[tuple[str, str], str] = {}
    for key, part in parts.items():
        by_role[part.tensor, part.role] = key
    changes: dict[str, list[Change]] = {}

    def add(name: str, change: Change) -> None:
        changes.setdefault(name, []).append(change)

    for (name, role), key in by_role.items():
        tensor = found.tensors[key]
        if role == "down":
            pair = LowRank(tensor, found.tensors[by_role[name, "up"]], 1.0)
            add(name, dataclasses.replace(pair, scale=_scale(found, parts, by_role, name)))
        elif role == "up_bias":
            weight = f"{name.removesuffix('.bias')}.weight"
            add(name, Difference(tensor, _scale(found, parts, by_role, weight)))
        elif role == "difference":
            add(name, Difference(tensor))
        elif role == "whole":
            # A whole tensor is the ground that differences are added to.
            changes.setdefault(name, []).insert(0, Whole(tensor))
    return changes


def _scale(
    found: AdapterTensors,
    parts: Mapping[str, Part],
    by_role: Mapping[tuple[str, str], str],
    name: str,
) -> float:
    """``alpha / r`` of the pair of factors of a weight."""
    down = by_role[name, "down"]
    alpha = by_role.get((name, "alpha"))
    value = float(found.tensors[alpha].read().reshape(-1)[0]) if alpha else None
    names = (parts[down].module, name.removesuffix(".weight"))
    return scale_of(found, names, found.tensors[down].shape[0], value)


def _refuse(file: Path, keys: Sequence[str], unknown: Sequence[str]) -> None:
    """Say what a file is that has keys which say nothing here."""
    for pattern, kind in OTHER_KINDS:
        if found := [key for key in keys if re.search(pattern, key)]:
            raise CheckpointError(
                f"{file} is {kind}, which cannot be merged ({show_keys(found)}); a plain LoRA can"
            )
    for pattern, model in OTHER_MODELS:
        if found := [key for key in unknown if re.search(pattern, key)]:
            raise CheckpointError(f"{file} is an adapter of {model} ({show_keys(found)})")
    raise CheckpointError(
        f"{file}: keys that match nothing in the transformer, {len(unknown)} of {len(keys)}: "
        f"{show_keys(unknown)}"
    )


def _check_names(file: Path, parts: Mapping[str, Part]) -> None:
    """Refuse several adapters in one file, two tensors in one place, and halves of pairs."""
    names = Counter(part.adapter for part in parts.values() if part.adapter)
    if len(names) > 1:
        raise CheckpointError(
            f"{file} holds {len(names)} adapters ({show_keys(list(names))}): save one of them"
        )
    places: dict[tuple[str, str], str] = {}
    for key, part in parts.items():
        other = places.setdefault((part.tensor, part.role), key)
        if other != key:
            raise CheckpointError(f"{file}: two keys say the same: {show_keys([other, key])}")
    for here, there in (("down", "up"), ("up", "down")):
        half = [key for (name, role), key in places.items() if role == here]
        half = [key for key in half if (parts[key].tensor, there) not in places]
        if half:
            raise CheckpointError(
                f"{file}: {counted(half, 'key')} without the other half of the pair: "
                f"{show_keys(half)}"
            )
    for key, part in parts.items():
        weight = f"{part.tensor.removesuffix('.bias')}.weight"
        if part.role == "up_bias" and (weight, "down") not in places:
            raise CheckpointError(f"{file}: {show_keys([key])} is without its lora_A and lora_B")
    changed = {name for name, role in places if role != "alpha"}
    lone = [key for (name, role), key in places.items() if role == "alpha" and name not in changed]
    if lone:
        raise CheckpointError(f"{file}: an alpha is without a pair: {show_keys(lone)}")


def _check_ranks(found: AdapterTensors, parts: Mapping[str, Part]) -> None:
    """Refuse factors that are no matrices, and pairs whose ranks differ."""
    ups = {part.tensor: key for key, part in parts.items() if part.role == "up"}
    wrong = {}
    for key, part in parts.items():
        if part.role != "down":
            continue
        down = found.tensors[key].shape
        up = found.tensors[ups[part.tensor]].shape
        if len(down) < 2 or len(up) < 2 or math.prod(up[1:]) != down[0] or not down[0]:
            wrong[key] = f" {list(down)} beside {list(up)}"
    if wrong:
        raise CheckpointError(
            f"{found.file}: {counted(wrong, 'pair')} of factors without a common rank: "
            f"{show_keys(wrong)}"
        )


def _check_values(found: AdapterTensors) -> None:
    """Refuse values that are no plain numbers, NaN or infinite."""
    integers = [key for key, tensor in found.tensors.items() if tensor.dtype.kind in "iub"]
    integers = [key for key in integers if not key.endswith(".alpha")]
    if integers:
        raise CheckpointError(f"{found.file} holds integers, not weights: {show_keys(integers)}")
    long = [key for key, tensor in found.tensors.items() if key.endswith(".alpha")]
    long = [key for key in long if math.prod(found.tensors[key].shape) != 1]
    if long:
        raise CheckpointError(f"{found.file}: an alpha is not one number: {show_keys(long)}")
    broken = [key for key, tensor in found.tensors.items() if not is_finite(tensor.read())]
    if broken:
        raise CheckpointError(
            f"{found.file}: {counted(broken, 'tensor')} with NaN or infinite values: "
            f"{show_keys(broken)}"
        )


def _sizes(shape: Shape) -> tuple[int, int]:
    return (shape[0] if shape else 1, math.prod(shape[1:]))


def _shaped(shape: Shape) -> TorchTensor:
    """A tensor of a shape, for what asks for nothing else."""
    return TorchTensor(np.dtype(np.float32), shape, lambda: np.zeros(shape, np.float32))


def _width(name: str, change: Change) -> int | None:
    """The model's width, as a change of one of its tensors tells it."""
    outputs, inputs = change.sizes
    if re.fullmatch(r"blocks\.\d+\.(attn\d\.(to_\w+(\.0)?|norm_\w)|ffn\.net\.2|norm2)\.\w+", name):
        return outputs
    if re.fullmatch(r"blocks\.\d+\.ffn\.net\.0\.proj\.weight|proj_out\.weight", name):
        return inputs
    return None


def _common(widths: Iterable[int | None]) -> int | None:
    """The width that most tell."""
    counted = Counter(width for width in widths if width)
    return counted.most_common(1)[0][0] if counted else None


def _model(width: int) -> str:
    known = f"the {MODELS[width]} model" if width in MODELS else "a model"
    return f"{known} (width {width})"


def _blocks(names: Iterable[str]) -> set[int]:
    """The numbers of the blocks that names are in."""
    return {int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name))}
