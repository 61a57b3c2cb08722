"""Whole conversions, tensor by tensor: PyTorch folder to checkpoint directory, and checkpoint
directory to Diffusers folder.
"""

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
from tqdm import tqdm

from helios_jax.checkpoint import wan
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.component import write_component
from helios_jax.checkpoint.diffusers_config import write_configs, write_wan_configs
from helios_jax.checkpoint.directory import FOLDERS, TOKENIZER, open_checkpoint
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import new_directory, write_digests, write_json
from helios_jax.checkpoint.finite import is_finite
from helios_jax.checkpoint.layout import Slot
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.checkpoint.pipeline_index import PIPELINE
from helios_jax.checkpoint.safetensors_files import DTYPE_NAMES, TorchTensor, write_folder
from helios_jax.checkpoint.sampling_file import write_sampling
from helios_jax.checkpoint.saving import write_config, write_tokenizer
from helios_jax.checkpoint.source import Selection, read_source
from helios_jax.checkpoint.stored import TIED, TORCH_NAMES, torch_tensors
from helios_jax.config import HeliosConfig
from helios_jax.models.transformer import keeps_float32
from helios_jax.progress import Progress

Precision = Literal["keep", "bfloat16", "float32"]

FILE_STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""File names that Diffusers and Transformers expect."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion wrote, and how long it took.

    Attributes:
      tensors: how many.
      nbytes: of how many bytes.
      seconds: the time that it took.
      notes: what was done that nobody asked for, a sentence each.
    """

    tensors: int
    nbytes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = tqdm.format_sizeof(self.nbytes, "B", 1024)
        rate = tqdm.format_sizeof(self.nbytes / max(self.seconds, 1e-9), "B", 1024)
        return f"{self.tensors} tensors, {size} in {self.seconds:.1f} s ({rate}/s)"


def from_torch(
    source: str | os.PathLike | Selection,
    out: str | os.PathLike,
    *,
    adapters: Sequence[AdapterFile] = (),
    partial: str | os.PathLike | None = None,
    init_from_wan: bool = False,
    dtype: Precision = "keep",
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Convert PyTorch weights to a checkpoint directory.

    Args:
      source: a Diffusers folder of Helios or Wan 2.1, or an original Wan 2.1 folder; or a selection
        of one of its transformers, or of a transformer alone and what completes it.
      out: the directory to make; it appears when it is complete.
      adapters: merged into the transformer, in their order.
      partial: file of whole tensors to merge into the transformer.
      init_from_wan: the source is Wan's; add the history patches Helios starts from.
      dtype: of the transformer and the text encoder; ``"keep"`` is the source's. The VAE keeps its
        own.
      overwrite: replace ``out`` if it exists.
      progress: show how far it is.

    Raises:
      CheckpointError: if the source cannot be used or ``out`` exists; nothing is written then.
    """
    start = time.perf_counter()
    selection = source if isinstance(source, Selection) else Selection(source)
    found = read_source(
        selection,
        init_from_wan,
        adapters,
        Path(partial) if partial else None,
    )
    tensors = {}
    for component in COMPONENTS:
        slots = component_slots(found.config, component)
        tensors[component] = cast_tensors(found.tensors[component], component, slots, dtype)
    count, size = _count(tensors)
    with new_directory(out, overwrite) as root:
        write_config(root, found.config)
        write_tokenizer(root, found.tokenizer)
        with _bar(size, "converting", progress) as bar:
            for component in COMPONENTS:
                slots = component_slots(found.config, component)
                dtypes = _leaf_dtypes(slots, tensors[component])
                read = functools.partial(_read_part, tensors[component], dtypes, selection.verify)
                write_component(root, component, slots, dtypes, read, bar.update)
        write_json(root / TORCH_NAMES, _torch_names(tensors, found.tied))
        with _bar(size, "digesting", progress) as bar:
            write_digests(root, progress=bar.update)
    return Summary(count, size, time.perf_counter() - start, found.notes)


def to_diffusers(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    *,
    dtype: Precision = "keep",
    as_wan: bool = False,
    max_shard_bytes: int = 5 * 10**9,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Convert a checkpoint directory to a folder that Diffusers loads.

    Args:
      checkpoint: the checkpoint directory; all its digests are checked first.
      out: the folder to make; it appears when it is complete.
      dtype: of the transformer and the text encoder; ``"keep"`` is what the checkpoint was
        converted from.
      as_wan: write the pipeline of Wan 2.1, without the history patches, which it does not know.
      max_shard_bytes: largest safetensors file, unless one tensor is larger.
      overwrite: replace ``out`` if it exists.
      progress: show how far it is.

    Raises:
      CheckpointError: if the checkpoint is incomplete or damaged or ``out`` exists; nothing is
        written then.
    """
    start = time.perf_counter()
    opened = open_checkpoint(checkpoint)
    files = opened.files
    root = files.root
    if as_wan:
        _check_rope(root, opened.config)
    if absent := [name for name in FOLDERS if not files.under(name)]:
        raise CheckpointError(
            f"{root} has no {', '.join(absent)}: only a whole pipeline makes a Diffusers folder"
        )
    with _bar(sum(entry.size for entry in files.digests.values()), "checking", progress) as bar:
        files.check(progress=bar.update)
    tensors = {}
    for component in COMPONENTS:
        slots = component_slots(opened.config, component)
        stored = dict(torch_tensors(opened, component))
        tensors[component] = cast_tensors(stored, component, slots, dtype)
    if as_wan:
        tensors["transformer"] = dict(wan.without_history(tensors["transformer"].items()))
    count, size = _count(tensors)
    with new_directory(out, overwrite, marker=PIPELINE) as folder:
        with _bar(size, "converting", progress) as bar:
            for component in COMPONENTS:
                write_folder(
                    folder / component,
                    FILE_STEMS[component],
                    tensors[component],
                    max_shard_bytes,
                    bar.update,
                )
        shutil.copytree(files.path(TOKENIZER), folder / TOKENIZER)
        if as_wan:
            write_wan_configs(folder, opened.config)
        else:
            write_configs(folder, opened.config)
            write_sampling(folder, opened.config)
    return Summary(count, size, time.perf_counter() - start)


def _check_rope(root: Path, config: HeliosConfig) -> None:
    """Refuse a split of a head's channels that Wan does not have, which no configuration of its
    could say.
    """
    own = config.transformer.rope_dim
    of_wan = wan.rope_dim(config.transformer.attention_head_dim)
    if own != of_wan:
        raise CheckpointError(
            f"{root}: transformer.rope_dim is {own}, and Wan's is {of_wan} for heads of as many "
            "channels"
        )


def cast_tensors(
    tensors: Mapping[str, TorchTensor], component: str, slots: list[Slot], dtype: Precision
) -> dict[str, TorchTensor]:
    """A component's tensors in the dtype that they are to be stored in.

    The VAE keeps its own. So do, with ``"bfloat16"``, the tensors of the transformer that run in
    float32: 117 MB of 14B.
    """
    if dtype == "keep" or component == "vae":
        return dict(tensors)
    to = np.dtype({"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[dtype])
    kept = set()
    if dtype == "bfloat16" and component == "transformer":
        kept = {slot.name for slot in slots if keeps_float32(slot.path)}
    return {name: tensor if name in kept else _cast(tensor, to) for name, tensor in tensors.items()}


def _cast(tensor: TorchTensor, to: np.dtype) -> TorchTensor:
    return TorchTensor(to, tensor.shape, lambda: tensor.read().astype(to, copy=False))


def _leaf_dtypes(slots: list[Slot], tensors: Mapping[str, TorchTensor]) -> dict[str, np.dtype]:
    """The dtype of each leaf: the narrowest that holds the values of all its tensors, should their
    dtypes differ.
    """
    dtypes: dict[str, np.dtype] = {}
    for slot in slots:
        dtype = tensors[slot.name].dtype
        try:
            dtypes[slot.path] = np.promote_types(dtypes.get(slot.path, dtype), dtype)
        except TypeError:  # float16 beside bfloat16
            dtypes[slot.path] = np.dtype(np.float32)
    return dtypes


def _read_part(
    tensors: Mapping[str, TorchTensor],
    dtypes: Mapping[str, np.dtype],
    verify: bool,
    slot: Slot,
) -> np.ndarray:
    values = tensors[slot.name].read()
    if verify and not is_finite(values):
        raise CheckpointError(
            f"{slot.name} has NaN or infinite values: its training broke down, or an adapter is "
            "too strong; --noverify (Selection(verify=False)) converts it all the same"
        )
    return slot.to_jax(values).astype(dtypes[slot.path], copy=False)


def _torch_names(
    tensors: Mapping[str, Mapping[str, TorchTensor]], tied: tuple[str, ...]
) -> dict[str, dict[str, str]]:
    """The content of ``torch.json``; ``tied`` are the names under which the source had the text
    encoder's embedding.
    """
    names = {}
    for component, held in tensors.items():
        names[component] = {name: DTYPE_NAMES[tensor.dtype] for name, tensor in held.items()}
    embedding = names["text_encoder"].pop(TIED[0])
    return names | {"text_encoder": dict.fromkeys(tied, embedding) | names["text_encoder"]}


def _count(tensors: Mapping[str, Mapping[str, TorchTensor]]) -> tuple[int, int]:
    """How many tensors, of how many bytes."""
    count = 0
    size = 0
    for held in tensors.values():
        count += len(held)
        size += sum(tensor.nbytes for tensor in held.values())
    return count, size


def _bar(size: int, label: str, progress: bool) -> Progress:
    return Progress(label, total=size, unit="B", hidden=not progress)
