"""The transformer of a pipeline's folder, an original Wan folder, a folder of its own or one
file, in Diffusers' names of today.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from helios_jax.checkpoint import float8, kinds, wan
from helios_jax.checkpoint.bundled import find_bundled
from helios_jax.checkpoint.diffusers_config import read_transformer_config
from helios_jax.checkpoint.errors import CheckpointError, summarise
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.layouts import describe_other, layout_of
from helios_jax.checkpoint.original import (
    WAN_FILES,
    original_transformer_config,
    original_transformer_folder,
)
from helios_jax.checkpoint.pipeline_index import (
    HELIOS,
    PIPELINE,
    check_all_is_read,
    check_class,
    read_index,
)
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_folder, unread_files
from helios_jax.checkpoint.transformer_file import config_of, read_tensors, without_prefix
from helios_jax.config import TransformerConfig

UNUSED = (
    (r"^gan_(heads|final_head)\.", "the discriminator's heads, which take no part in sampling"),
    (r"norm_added_q", "norms that no model of this kind uses"),
)
"""Tensors that are left out, and said to be."""


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A transformer as it was found.

    Attributes:
      config: its configuration.
      tensors: in Diffusers' names of today.
      is_wan: whether it is Wan's, without history patches.
      notes: what was done to it that its file does not say, a sentence each.
      bundled: tensors of other components in its file.
    """

    config: TransformerConfig
    tensors: dict[str, TorchTensor]
    is_wan: bool
    notes: tuple[str, ...] = ()
    bundled: dict[str, dict[str, TorchTensor]] = dataclasses.field(default_factory=dict)


def read_transformer(
    path: Path, chosen: str | None = None, like: TransformerConfig | None = None
) -> Transformer:
    """The transformer of a place.

    Args:
      path: a file or a folder.
      chosen: the folder of one of several transformers; None: the only one.
      like: see :func:`~helios_jax.checkpoint.transformer_file.config_of`.

    Raises:
      CheckpointError: if there is none, or it is of a kind that Helios does not start from.
    """
    layout = layout_of(path)
    if chosen is not None and layout not in ("pipeline", "original", "file"):
        raise CheckpointError(f"{path} has one transformer: leave out --transformer")
    if layout == "pipeline":
        return _of_pipeline(path, chosen)
    if layout == "original":
        return _of_folder(original_transformer_folder(path, chosen))
    if layout == "component":
        return _of_folder(path)
    if layout == "file":
        return _of_file(path, chosen, like)
    raise CheckpointError(f"{path} {describe_other(path, layout)}")


def _of_pipeline(folder: Path, chosen: str | None) -> Transformer:
    index = read_index(folder)
    check_class(folder, index)
    name = chosen or "transformer"
    if not (folder / name).is_dir() or not re.fullmatch(r"transformer\w*", name):
        there = [entry.name for entry in folder.iterdir() if entry.name.startswith("transformer")]
        raise CheckpointError(
            f"{folder} has no {name}: give the folder of a whole pipeline"
            + (f", or one of {', '.join(sorted(there))} as --transformer" if there else "")
        )
    found = _of_folder(folder / name, is_wan=index["_class_name"] not in HELIOS)
    check_all_is_read(folder, index, chosen)
    return found


def _of_folder(folder: Path, is_wan: bool | None = None) -> Transformer:
    """The transformer of a folder with a ``config.json``, Diffusers' or the original one."""
    path = folder / "config.json"
    values = read_json(path)
    kind = str(values.get("_class_name", "component"))
    if is_wan is None and "num_heads" not in values and "Transformer3DModel" not in kind:
        raise CheckpointError(
            f"{folder} holds one {kind} only: give the folder of the whole pipeline, which has "
            f"{PIPELINE} (or {WAN_FILES['vae']}), or a transformer"
        )
    tensors, notes = _normalised(folder, read_folder(folder))
    if unread := unread_files(folder):
        shown = ", ".join(unread[:3])
        notes += (f"left out: {shown} ({len(unread)} in all), which the index does not name",)
    if "num_heads" in values:
        return Transformer(original_transformer_config(path), tensors, True, notes)
    is_wan = not kind.startswith("Helios") if is_wan is None else is_wan
    return Transformer(read_transformer_config(path), tensors, is_wan, notes)


def _of_file(path: Path, chosen: str | None, like: TransformerConfig | None) -> Transformer:
    read = read_tensors(path, chosen)
    own, names = without_prefix(path, read)
    bundled, others = find_bundled(path, {name: read[name] for name in names})
    notes: tuple[str, ...] = ()
    if bundled:
        notes = (f"{' and '.join(bundled)} are taken out of {path.name}, too",)
    if others:
        groups = ", ".join(sorted({name.split(".")[0] for name in others})[:6])
        notes += (f"left out: {groups} ({len(others)} in all), which are not the transformer's",)
    tensors, more = _normalised(path, own)
    is_wan = not any(re.match(wan.HISTORY_PATCHES, name) for name in tensors)
    config = config_of(path, tensors, like)
    return Transformer(config, tensors, is_wan, notes + more, bundled)


def _normalised(
    path: Path, tensors: Mapping[str, TorchTensor]
) -> tuple[dict[str, TorchTensor], tuple[str, ...]]:
    """A transformer's tensors in Diffusers' names of today and in dtypes to compute with, and what
    was done to them.

    Raises:
      CheckpointError: if they are of another kind of model, or packed.
    """
    if library := kinds.packed_as(tensors):
        raise CheckpointError(
            f"{path} holds weights that {library} packed, which are not read: take the release in "
            "bfloat16 or float32"
        )
    tensors = wan.renamed(tensors, ((kinds.WRAPPED, ""),))
    patch = tensors.get("patch_embedding.weight")
    channels = patch.shape[1] if patch is not None and len(patch.shape) > 1 else None
    if kind := kinds.kind_of(tensors, channels):
        raise CheckpointError(f"{path} is the transformer of {kind}. {kinds.ADVICE}")
    integers = [
        name
        for name, tensor in tensors.items()
        if tensor.dtype.kind in "iub" and name.rpartition(".")[2] not in float8.BESIDE
    ]
    if integers:
        shown = ", ".join(summarise(dict.fromkeys(integers, ""))[:2])
        raise CheckpointError(
            f"{path} holds integers where weights belong ({shown}; {len(integers)} in all): "
            "quantised weights are not read, take the release in bfloat16 or float32"
        )
    notes = []
    if packed := float8.packed(tensors):
        notes.append(f"float8 weights ({len(packed)} in all) are dequantised to float32")
    tensors = float8.widened(path, tensors)
    kept = {}
    for name, tensor in tensors.items():
        if not any(re.search(pattern, name) for pattern, _ in UNUSED):
            kept[name] = tensor
    for pattern, what in UNUSED:
        if unused := [name for name in tensors if re.search(pattern, name)]:
            names = ", ".join(summarise(dict.fromkeys(unused, ""))[:2])
            notes.append(f"left out: {names} ({len(unused)} in all), {what}")
    if any(re.search(r"\.(self|cross)_attn\.", name) for name in kept):
        kept = wan.renamed(kept, wan.TRANSFORMER)
    return wan.renamed(kept, wan.EARLIER_NAMES), tuple(notes)
