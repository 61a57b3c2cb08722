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

from helios_jax.checkpoint import arrays
from helios_jax.checkpoint.directory import (
    flatten,
    load_config,
    write_component,
    write_config,
    write_tokenizer,
)
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import (
    DIGESTS,
    check_digests,
    new_directory,
    read_digests,
    write_digests,
    write_json,
)
from helios_jax.checkpoint.layout import Slot, leaves
from helios_jax.checkpoint.names import component_slots, transformer_slots
from helios_jax.checkpoint.safetensors_files import TorchTensor, write_file
from helios_jax.config import HeliosConfig, TransformerConfig
from helios_jax.models.lora import adapter_shapes
from helios_jax.types import Array, Params

FACTORS = ("lora_a", "lora_b")
LORA, PARTIAL = "pytorch_lora_weights.safetensors", "transformer_partial.safetensors"

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
    flat = flatten(trainable)
    slots = transformer_slots(config)
    _check(flat, slots)
    if (
        len(ranks := {leaf.shape[-1] for path, leaf in flat.items() if path.endswith("/lora_a")})
        > 1
    ):
        raise CheckpointError(
            f"adapters of ranks {sorted(ranks)}: a LoRA file without settings has one rank; merge them instead"
        )
    files = {LORA: {}, PARTIAL: {}}
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
      tokenizer: of a text encoder; see :func:`~helios_jax.checkpoint.directory.save`.
      dtype: of each leaf of the component, given its path; None keeps the base's, or the tree's own
        where the base has none.
      overwrite: replace ``out`` if it is a checkpoint.

    Raises:
      CheckpointError: if the base is damaged, the tree does not fit it, or ``out`` exists.
    """
    base, flat = Path(base) if base else None, flatten(trainable)
    config = config or load_config(base)
    slots = component_slots(config, component)
    _check(flat, slots)
    digests = read_digests(base) if base else {}
    own = [
        name
        for name in digests
        if name.startswith((f"{component}/", *(["tokenizer/"] if tokenizer else [])))
    ]
    if base:
        check_digests(base, digests, own)
    held = {
        path
        for path in leaves(slots)
        if base and (base / component / arrays.array_folder(path)).is_dir()
    }
    if absent := sorted(leaves(slots).keys() - held - flat.keys()):
        raise CheckpointError(
            f"{base} has no {component} of this geometry; missing: {', '.join(absent)}"
        )
    stored = {path: arrays.open_array(base / component, path) for path in held}
    if wrong := [
        path
        for path, slot in leaves(slots).items()
        if path in stored and tuple(stored[path].shape) != slot.leaf_shape
    ]:
        raise CheckpointError(
            f"{base} has no {component} of this geometry; of another shape: {', '.join(wrong)}"
        )
    own_dtype = lambda path: stored[path].dtype.numpy_dtype if path in stored else flat[path].dtype
    dtypes = {path: np.dtype((dtype or own_dtype)(path)) for path in leaves(slots)}

    def merged(slot: Slot) -> np.ndarray:
        part = (
            _part(flat[slot.path], slot.index)
            if slot.path in flat
            else arrays.read(stored[slot.path], slot.index)
        )
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
        write_digests(root)
        others = {
            name: entry for name, entry in digests.items() if name not in {*own, "config.json"}
        }
        if base:
            _link(base, root, others)
        write_json(root / DIGESTS, {"files": dict(sorted((others | read_digests(root)).items()))})


def _adapted(slot: Slot, flat: Leaves) -> str | None:
    """The module whose kernel a slot is a part of, if it has an adapter."""
    module, _, name = slot.path.rpartition("/")
    return module if name == "kernel" and f"{module}/lora_a" in flat else None


def _factors(slot: Slot, a: Leaf, b: Leaf) -> dict[str, TorchTensor]:
    """The tensors ``A [r, in]`` and ``B [out, r]`` of the adapter of a weight; for a convolution,
    with the kernel's axes and with ones.
    """
    module, rank = slot.name.removesuffix(".weight"), a.shape[-1]
    down = dataclasses.replace(slot, shape=(rank, *slot.shape[1:]))
    up = dataclasses.replace(slot, shape=(slot.shape[0], rank), axes=(1, 0))
    ones = (1,) * (len(slot.shape) - 2)
    A, B = _tensor(a, slot.index, down), _tensor(b, _whole(slot.index), up)
    B = TorchTensor(
        B.dtype, (*B.shape, *ones), lambda read=B.read: read().reshape(*up.shape, *ones)
    )
    return {f"transformer.{module}.lora_A.weight": A, f"transformer.{module}.lora_B.weight": B}


def _factor_parts(slot: Slot, a: Leaf, b: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """The factors ``[*in, r]`` and ``[r, *out]`` of a slot, in float32."""
    return _part(a, slot.index).astype(np.float32), _part(b, _whole(slot.index)).astype(np.float32)


def _tensor(leaf: Leaf, index: tuple[int | slice, ...], slot: Slot) -> TorchTensor:
    """The torch tensor of ``leaf[index]``, which has the axes of ``slot``."""
    return TorchTensor(
        np.dtype(leaf.dtype), slot.shape, functools.partial(_read, leaf, index, slot)
    )


def _read(leaf: Leaf, index: tuple[int | slice, ...], slot: Slot) -> np.ndarray:
    return slot.to_torch(_part(leaf, index))


def _part(leaf: Leaf, index: tuple[int | slice, ...]) -> np.ndarray:
    return np.asarray(leaf[(*index, ...)])


def _whole(index: tuple[int | slice, ...]) -> tuple[int, ...]:
    """The index of a part in ``lora_b``, which has the axes of layers and parts, but not those of
    inputs.
    """
    return tuple(at for at in index if isinstance(at, int))


def _link(base: Path, root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(base / name, root / name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(base / name, root / name)


def _check(flat: Leaves, slots: list[Slot]) -> None:
    """Every leaf has a place and fits it, and every adapter has both its factors."""
    places = {path: slot.leaf_shape for path, slot in leaves(slots).items()}
    problems = []
    for path, leaf in flat.items():
        module, _, name = path.rpartition("/")
        held = [factor for factor in FACTORS if f"{module}/{factor}" in flat]
        kernel, expected = places.get(f"{module}/kernel"), places.get(path)
        if name in FACTORS and len(held) < 2:
            problems.append(f"{path} is without the other factor")
            continue
        if name in FACTORS and kernel:
            expected = adapter_shapes(module, kernel, flat[f"{module}/lora_a"].shape[-1])[
                FACTORS.index(name)
            ]
        if expected is None:
            problems.append(f"{path} has no place in the transformer")
        elif tuple(leaf.shape) != expected:
            problems.append(f"{path} is {list(leaf.shape)}, not {list(expected)}")
        elif name == "kernel" and held:
            problems.append(f"{path} is trained in full and adapted, too")
    if problems:
        raise CheckpointError(
            f"this tree was not trained on this transformer: {'; '.join(problems)}"
        )
