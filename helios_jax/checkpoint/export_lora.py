"""What was trained, out of our trees: as files that Diffusers loads, or folded into a checkpoint.

A trainable tree holds ``lora_a`` and ``lora_b`` beside the kernels they adapt, ``W + A B``, and
whole leaves. The name table of the transformer says which torch module each part of a joined or
stacked leaf is; :mod:`helios_jax.checkpoint.lora` is the way back.
"""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint.component import StoredLeaf, open_component, write_component
from helios_jax.checkpoint.directory import (
    TOKENIZER,
    Checkpoint,
    open_checkpoint,
)
from helios_jax.checkpoint.errors import CheckpointError, first_few
from helios_jax.checkpoint.files import FileTable, new_directory, write_digests
from helios_jax.checkpoint.layout import Index, Slot, leaves
from helios_jax.checkpoint.names import component_slots, transformer_slots
from helios_jax.checkpoint.safetensors_files import TorchTensor, write_file
from helios_jax.checkpoint.saving import write_config, write_tokenizer
from helios_jax.config import HeliosConfig, TransformerConfig
from helios_jax.models.lora import adapter_shapes
from helios_jax.types import Array, Params

FACTORS = ("lora_a", "lora_b")
LORA = "pytorch_lora_weights.safetensors"
PARTIAL = "transformer_partial.safetensors"

Leaf = Array | np.ndarray
Leaves = Mapping[str, Leaf]


def export_lora(
    out: str | os.PathLike, config: TransformerConfig, trainable: Params, overwrite: bool = False
) -> None:
    """Write a folder with the LoRA, for ``load_lora_weights`` of Diffusers, and with the leaves
    trained in full.

    ``pytorch_lora_weights.safetensors`` has ``transformer.<module>.lora_A.weight`` and
    ``lora_B.weight``, and ``transformer_partial.safetensors`` whole tensors under their own names,
    for ``load_state_dict(..., strict=False)``; a file that would be empty is not written. The scale
    of the LoRA is 1.

    Args:
      out: the folder to make; it appears when it is complete.
      config: the geometry.
      trainable: nested dictionary of arrays, in the dtype they are to have.
      overwrite: replace ``out`` if it is such a folder.

    Raises:
      CheckpointError: if the tree has leaves the transformer has no place for, or adapters of
        several ranks, or ``out`` exists.
    """
    flat: dict[str, Any] = flatten_dict(trainable, sep="/")
    slots = transformer_slots(config)
    _check(flat, slots)
    ranks = {leaf.shape[-1] for path, leaf in flat.items() if path.endswith("/lora_a")}
    if len(ranks) > 1:
        raise CheckpointError(
            f"adapters of ranks {sorted(ranks)}: a LoRA file without settings has one rank; merge "
            "them instead"
        )
    files: dict[str, dict[str, TorchTensor]] = {LORA: {}, PARTIAL: {}}
    for slot in slots:
        if slot.path in flat:
            files[PARTIAL][slot.name] = _tensor(flat[slot.path], slot.index, slot)
        elif module := _adapted(slot, flat):
            files[LORA] |= _factors(slot, flat[f"{module}/lora_a"], flat[f"{module}/lora_b"])
    marker = next((name for name in files if (Path(out) / name).is_file()), LORA)
    with new_directory(out, overwrite, marker) as folder:
        for name, tensors in files.items():
            if tensors:
                write_file(folder / name, tensors)


def merge_into_checkpoint(
    base: str | os.PathLike | None,
    trainable: Params,
    out: str | os.PathLike,
    *,
    config: HeliosConfig | None = None,
    component: str = "transformer",
    tokenizer: Any = None,
    dtype: Callable[[str], Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint directory with the LoRA folded into the kernels and whole leaves replaced.

    Each tensor is computed in float32 and stored in the base's dtype, or ``dtype``, one at a time;
    the other components' files are hard links to the base's where the file system has them.

    Args:
      base: the checkpoint directory that was trained on; the files of its component are checked
        against their digests first. It need not have what ``trainable`` is all of. None: the new
        checkpoint has nothing but that.
      trainable: nested dictionary of arrays.
      out: the directory to make; it appears when it is complete.
      config: what the new checkpoint should say, where training changed more than weights (a
        pyramid's schedule); None: the base's.
      component: which was trained.
      tokenizer: of a text encoder; see :func:`~helios_jax.checkpoint.saving.save`.
      dtype: of each leaf of the component, given its path; None keeps the base's, or the tree's own
        where the base has none.
      overwrite: replace ``out`` if it is a checkpoint.

    Raises:
      CheckpointError: if the base is damaged, the tree does not fit it, or ``out`` exists.
    """
    flat: dict[str, Any] = flatten_dict(trainable, sep="/")
    opened = open_checkpoint(base) if base else None
    if config is None:
        if opened is None:
            raise CheckpointError("without a base there must be a configuration")
        config = opened.config
    slots = component_slots(config, component)
    _check(flat, slots)
    replaced = [component, TOKENIZER] if tokenizer is not None else [component]
    stored = _stored_leaves(opened, replaced) if opened else {}
    _check_geometry(base, component, slots, stored, flat)
    dtypes = {}
    for path in leaves(slots):
        if dtype is None:
            dtypes[path] = np.dtype(stored[path].dtype if path in stored else flat[path].dtype)
        else:
            dtypes[path] = np.dtype(dtype(path))

    def merged(slot: Slot) -> np.ndarray:
        if slot.path in flat:
            part = _part(flat[slot.path], slot.index)
        else:
            part = stored[slot.path].read(slot.index)
        if module := _adapted(slot, flat):
            a, b = _factor_parts(slot, flat[f"{module}/lora_a"], flat[f"{module}/lora_b"])
            product = a.reshape(-1, a.shape[-1]) @ b.reshape(b.shape[0], -1)
            part = part.astype(np.float32) + product.reshape(part.shape)
        return part.astype(dtypes[slot.path], copy=False)

    with new_directory(out, overwrite) as root:
        write_component(root, component, slots, dtypes, merged)
        write_config(root, config)
        if tokenizer is not None:
            write_tokenizer(root, tokenizer)
        if opened is None:
            write_digests(root)
            return
        others = {
            name: digest
            for name, digest in opened.files.digests.items()
            if name != "config.json" and name.partition("/")[0] not in replaced
        }
        _link(opened.files, root, others)
        identities = {
            name: identity for name, identity in opened.identities.items() if name not in replaced
        }
        write_digests(root, others, identities)


def _stored_leaves(base: Checkpoint, replaced: list[str]) -> dict[str, StoredLeaf]:
    """The leaves of the component that is replaced, the first of ``replaced``; all its files and
    those of the others are checked against their digests.
    """
    component = replaced[0]
    for folder in replaced:
        base.files.check(base.files.under(folder))
    return open_component(base.files, component) if base.files.under(component) else {}


def _check_geometry(
    base: str | os.PathLike | None,
    component: str,
    slots: list[Slot],
    stored: Mapping[str, StoredLeaf],
    flat: Leaves,
) -> None:
    """Refuse a base that lacks leaves, or has them of another shape."""
    expected = leaves(slots)
    if absent := sorted(expected.keys() - stored.keys() - flat.keys()):
        raise CheckpointError(
            f"{base} has no {component} of this geometry; missing: {first_few(absent)}"
        )
    wrong = [
        path
        for path, slot in expected.items()
        if path in stored and stored[path].shape != slot.leaf_shape
    ]
    if wrong:
        raise CheckpointError(
            f"{base} has no {component} of this geometry; of another shape: {first_few(wrong)}"
        )


def _adapted(slot: Slot, flat: Leaves) -> str | None:
    """The module whose kernel a slot is a part of, if it has an adapter."""
    module, _, name = slot.path.rpartition("/")
    return module if name == "kernel" and f"{module}/lora_a" in flat else None


def _factors(slot: Slot, a: Leaf, b: Leaf) -> dict[str, TorchTensor]:
    """The tensors ``A [r, in]`` and ``B [out, r]`` of the adapter of a weight; for a convolution,
    with the kernel's axes and with ones.
    """
    module = slot.name.removesuffix(".weight")
    rank = a.shape[-1]
    down = dataclasses.replace(slot, shape=(rank, *slot.shape[1:]))
    up = dataclasses.replace(slot, shape=(slot.shape[0], rank), axes=(1, 0))
    ones = (1,) * (len(slot.shape) - 2)
    A = _tensor(a, slot.index, down)
    flat_B = _tensor(b, _whole(slot.index), up)
    shape = (*up.shape, *ones)
    B = TorchTensor(flat_B.dtype, shape, lambda: flat_B.read().reshape(shape))
    return {f"transformer.{module}.lora_A.weight": A, f"transformer.{module}.lora_B.weight": B}


def _factor_parts(slot: Slot, a: Leaf, b: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """The factors ``[*in, r]`` and ``[r, *out]`` of a slot, in float32."""
    A = _part(a, slot.index).astype(np.float32)
    B = _part(b, _whole(slot.index)).astype(np.float32)
    return A, B


def _tensor(leaf: Leaf, index: Index, slot: Slot) -> TorchTensor:
    """The torch tensor of ``leaf[index]``, which has the axes of ``slot``."""
    return TorchTensor(
        np.dtype(leaf.dtype), slot.shape, functools.partial(_read, leaf, index, slot)
    )


def _read(leaf: Leaf, index: Index, slot: Slot) -> np.ndarray:
    return slot.to_torch(_part(leaf, index))


def _part(leaf: Leaf, index: Index) -> np.ndarray:
    return np.asarray(leaf[(*index, ...)])


def _whole(index: Index) -> Index:
    """The index of a part in ``lora_b``, which has the axes of layers and parts, but not those of
    inputs.
    """
    return tuple(at for at in index if isinstance(at, int))


def _link(base: FileTable, root: Path, names: Iterable[str]) -> None:
    """Hard links to files of ``base``, or copies where the file system has no links."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source = base.path(name).resolve()
        try:
            os.link(source, root / name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, root / name)


def _check(flat: Leaves, slots: list[Slot]) -> None:
    """Every leaf has a place and fits it, and every adapter has both its factors."""
    places = {path: slot.leaf_shape for path, slot in leaves(slots).items()}
    problems = []
    for path, leaf in flat.items():
        module, _, name = path.rpartition("/")
        held = [factor for factor in FACTORS if f"{module}/{factor}" in flat]
        kernel = places.get(f"{module}/kernel")
        expected = places.get(path)
        if name in FACTORS and len(held) < 2:
            problems.append(f"{path} is without the other factor")
            continue
        if name in FACTORS and kernel:
            rank = flat[f"{module}/lora_a"].shape[-1]
            expected = adapter_shapes(module, kernel, rank)[FACTORS.index(name)]
        if expected is None:
            problems.append(f"{path} has no place in the transformer")
        elif tuple(leaf.shape) != expected:
            problems.append(f"{path} is {list(leaf.shape)}, not {list(expected)}")
        elif name == "kernel" and held:
            problems.append(f"{path} is trained in full and adapted, too")
    if problems:
        raise CheckpointError(
            f"this tree was not trained on this transformer: {first_few(problems, '; ')}"
        )
