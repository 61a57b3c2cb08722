"""Adapters: what a file changes in the transformer, checked, and the changed weights."""

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.checkpoint.adapter_changes import Change, Difference, LowRank, Whole
from helios_jax.checkpoint.adapter_checks import (
    check_names,
    check_ranks,
    check_values,
    refuse_keys,
    show_keys,
)
from helios_jax.checkpoint.adapter_files import (
    AdapterFile,
    AdapterTensors,
    read_adapter_tensors,
    scale_of,
)
from helios_jax.checkpoint.adapter_names import Naming, Part, best_naming, read_key
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import sha256_of
from helios_jax.checkpoint.kinds import kind_of
from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.safetensors_files import TorchTensor

MODELS = {1536: "1.3B", 3072: "5B", 5120: "14B"}
"""Wan's models by their width."""


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
        channels = _channels(self.changes)
        if "patch_embedding.weight" in wrong and (kind := kind_of([], channels)):
            raise CheckpointError(
                f"{self.file} is an adapter of {kind}, whose patch embedding has {channels} input "
                "channels"
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
        refuse_keys(found.file, list(found.tensors), unknown)
    known = {key: part for key, part in parts.items() if part is not None}
    check_names(found.file, known)
    check_ranks(found, known)
    check_values(found)
    changes = _changes(found, known)
    if all(isinstance(change, Whole) for parts in changes.values() for change in parts):
        raise CheckpointError(
            f"{found.file} holds whole tensors and no adapter ({show_keys(list(known))}): give a "
            "transformer_partial as --partial, and a whole model as --source"
        )
    return Adapter(found.file, file.strength, naming, changes, found.settings)


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
    told = Counter(width for width in widths if width)
    return told.most_common(1)[0][0] if told else None


def _model(width: int) -> str:
    known = f"the {MODELS[width]} model" if width in MODELS else "a model"
    return f"{known} (width {width})"


def _channels(changes: Mapping[str, Sequence[Change]]) -> int | None:
    """The input channels of the patch embedding that an adapter is of, where it shows them."""
    for change in changes.get("patch_embedding.weight", ()):
        tensor = change.down if isinstance(change, LowRank) else change.value
        if len(tensor.shape) == 5:
            return tensor.shape[1]
    return None


def _blocks(names: Iterable[str]) -> set[int]:
    """The numbers of the blocks that names are in."""
    return {int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name))}
