"""Merging what was trained into a base transformer: adapters, and a partial file of whole tensors.

First the partial file replaces, then the adapters add, in their order; where both have a history
patch (``patch_short``, ``patch_mid``, ``patch_long``), only the adapter applies, as in the original
implementation.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helios_jax.checkpoint.adapter_changes import Whole
from helios_jax.checkpoint.adapter_checks import show_keys
from helios_jax.checkpoint.adapter_files import PARTIAL, AdapterFile, find_adapter_file
from helios_jax.checkpoint.adapter_names import strip_prefixes
from helios_jax.checkpoint.adapters import Adapter, read_adapter
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.pth import read_pth
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_file

Tensors = Mapping[str, TorchTensor]

_DISCRIMINATOR = re.compile(r"^gan_(heads|final_head)\.")
_PATCH = re.compile(r"^(patch_(?:short|mid|long))\.")


def merge(
    tensors: Tensors, adapters: Sequence[AdapterFile], partial: Path | None
) -> dict[str, TorchTensor]:
    """The transformer's tensors with a partial file and adapters merged in; each is computed, in
    float32, when it is read.

    Args:
      tensors: the base, in Diffusers' names.
      adapters: in the order in which they are merged.
      partial: a ``transformer_partial.pth``.

    Returns:
      The tensors in the base's dtypes, and ``history_key_scale`` where the partial file has it.

    Raises:
      CheckpointError: if a file cannot be read, or holds tensors the base has no place for or of
        another shape.
    """
    merged = dict(tensors)
    read = [read_adapter(file) for file in adapters]
    if partial:
        adapted = {match[1] for name in _changed(read) if (match := _PATCH.match(name))}
        whole = {
            name: value
            for name, value in _read_partial(partial).items()
            if (match := _PATCH.match(name)) is None or match[1] not in adapted
        }
        _check_partial(partial, whole, tensors)
        for name, value in whole.items():
            merged[name] = _cast(value, tensors[name].dtype) if name in tensors else value
    for adapter in read:
        _add_history_scales(adapter, merged)
        adapter.check({name: tensor.shape for name, tensor in merged.items()})
    for name in _changed(read):
        compute = functools.partial(_adapted, merged[name], read, name)
        merged[name] = TorchTensor(merged[name].dtype, merged[name].shape, compute)
    return merged


def partial_remark(
    adapters: Sequence[AdapterFile], partial: str | os.PathLike | None
) -> str | None:
    """A sentence that says that adapters are merged without the history patches that were perhaps
    trained with them; None where there is nothing to say.
    """
    if partial or not adapters:
        return None
    for file in adapters:
        beside = sorted(find_adapter_file(file.path).parent.glob(f"{PARTIAL}.*"))
        if beside:
            return (
                f"{beside[0]} lies beside {file.path} and is not merged: what was trained whole, "
                "such as the history patches, stays the base's. Convert with --partial "
                f"{beside[0]} to take it"
            )
    changed = _changed([read_adapter(file) for file in adapters])
    if any(_PATCH.match(name) for name in changed):
        return None
    return (
        "--lora without a transformer_partial: the history patches stay the base's. If one was "
        "trained with the adapter, convert with --partial"
    )


def _changed(adapters: Sequence[Adapter]) -> list[str]:
    """Names of the tensors that any of some adapters changes."""
    names: dict[str, None] = {}
    for adapter in adapters:
        names |= dict.fromkeys(adapter.changes)
    return list(names)


def _adapted(base: TorchTensor, adapters: Sequence[Adapter], name: str) -> np.ndarray:
    """A tensor with all its changes, rounded to the base's dtype once."""
    weight = base.read().astype(np.float32)
    for adapter in adapters:
        weight = adapter.apply(name, weight)
    return weight.astype(base.dtype, copy=False)


def _read_partial(path: Path) -> dict[str, TorchTensor]:
    tensors = read_file(path)[0] if path.suffix == ".safetensors" else read_pth(path)
    # The discriminator's heads are trained along with the generator and are no part of it.
    named = {strip_prefixes(name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not _DISCRIMINATOR.match(name)}


def _check_partial(path: Path, whole: Tensors, base: Tensors) -> None:
    """Refuse whole tensors that have no place in the base, or do not fit theirs."""
    wrong = {}
    for name, value in whole.items():
        if name not in base and not name.endswith(".attn1.history_key_scale"):
            wrong[name] = " has no place in the base"
        elif name in base and value.shape != base[name].shape:
            wrong[name] = f" is {list(value.shape)}, the base's is {list(base[name].shape)}"
    if wrong:
        cause = ""
        if any("_loras." in name for name in wrong):
            cause = "; q_loras, k_loras and v_loras are artefacts of training with restrict_lora"
        raise CheckpointError(f"cannot merge {path}: {show_keys(wrong)}{cause}")


def _cast(tensor: TorchTensor, dtype: np.dtype) -> TorchTensor:
    return TorchTensor(dtype, tensor.shape, lambda: tensor.read().astype(dtype, copy=False))


def _add_history_scales(adapter: Adapter, merged: dict[str, TorchTensor]) -> None:
    """Give a base that has no ``history_key_scale`` those that an adapter's file stores whole."""
    for name, changes in adapter.changes.items():
        first = changes[0]
        if name.endswith(".attn1.history_key_scale") and isinstance(first, Whole):
            merged.setdefault(name, first.value)
