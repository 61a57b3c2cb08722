"""The parts of a model, out of whatever holds them: a transformer, and the rest that it runs with.

A transformer comes from a pipeline's folder, an original Wan folder, a folder of its own or one
file. The rest, VAE, text encoder, tokenizer and how it is sampled, comes from the same folder, or
from another pipeline, an original Wan folder or a converted checkpoint.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from helios_jax.checkpoint import float8, kinds, wan
from helios_jax.checkpoint.diffusers_config import (
    BASE_SCHEDULER,
    read_scheduler,
    read_text_encoder,
    read_transformer_config,
    read_vae,
    sample_defaults,
)
from helios_jax.checkpoint.directory import TOKENIZER, open_checkpoint
from helios_jax.checkpoint.errors import CheckpointError, summarise
from helios_jax.checkpoint.files import DIGESTS, read_json
from helios_jax.checkpoint.original import (
    WAN_FILES,
    is_original,
    original_text_encoder,
    original_transformer_config,
    original_transformer_folder,
    original_vae,
)
from helios_jax.checkpoint.pipeline_index import (
    HELIOS,
    PIPELINE,
    check_all_is_read,
    check_class,
    read_index,
)
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_folder
from helios_jax.checkpoint.stored import torch_tensors
from helios_jax.checkpoint.transformer_file import config_of, read_tensors, without_prefix
from helios_jax.config import (
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)

EARLIER_NAMES: wan.Rules = (
    (r"^scale_shift_table$", "norm_out.scale_shift_table"),
    (r"^(clean_patch_embedding|multi_term_memory_patch)\.(patch_)?", "patch_"),
    (r"^patch_proj\.", "patch_short."),
    (r"^patch_proj_2x\.", "patch_mid."),
    (r"^patch_proj_4x\.", "patch_long."),
)
"""Names of Wan in Diffusers and of earlier Helios files, to today's."""

UNUSED = (
    (r"^gan_(heads|final_head)\.", "the discriminator's heads, which take no part in sampling"),
    (r"norm_added_q", "norms that no model of this kind uses"),
)
"""Tensors that are left out, and said to be."""

REST = ("vae", "text_encoder")


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A transformer as it was found.

    Attributes:
      config: its configuration.
      tensors: in Diffusers' names of today.
      is_wan: whether it is Wan's, without history patches.
      notes: what was done to it that its file does not say, a sentence each.
    """

    config: TransformerConfig
    tensors: dict[str, TorchTensor]
    is_wan: bool
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rest:
    """What a transformer runs with.

    Attributes:
      vae: the VAE's configuration.
      text_encoder: the text encoder's.
      tensors: of both.
      tokenizer: its folder.
      scheduler: how it is sampled; None if the place has a Wan's sampler.
      sample: the defaults of a request.
    """

    vae: VAEConfig
    text_encoder: TextEncoderConfig
    tensors: dict[str, dict[str, TorchTensor]]
    tokenizer: Path
    scheduler: SchedulerConfig | None
    sample: SampleConfig | None


def layout_of(path: Path) -> str:
    """How a path is laid out: ``"file"``, ``"pipeline"`` (Diffusers), ``"original"`` (Wan),
    ``"checkpoint"`` (ours), ``"component"`` (a folder of one model), ``"adapter"`` or ``"other"``.
    """
    if path.is_file():
        return "file"
    if (path / DIGESTS).exists():
        return "checkpoint"
    if (path / PIPELINE).exists():
        return "pipeline"
    if is_original(path):
        return "original"
    if (path / "adapter_config.json").exists() or list(path.glob("*lora*.safetensors")):
        return "adapter"
    return "component" if (path / "config.json").exists() else "other"


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
    if chosen is not None and layout not in ("pipeline", "original"):
        raise CheckpointError(f"{path} has one transformer: leave out --transformer")
    if layout == "pipeline":
        return _of_pipeline(path, chosen)
    if layout == "original":
        return _of_folder(original_transformer_folder(path, chosen))
    if layout == "component":
        return _of_folder(path)
    if layout == "file":
        return _of_file(path, like)
    raise CheckpointError(f"{path} {describe_other(path, layout)}")


def read_rest(path: Path) -> Rest:
    """What a transformer runs with, from a whole pipeline, an original Wan folder or a converted
    checkpoint.

    Raises:
      CheckpointError: if it is none of these, or lacks a part.
    """
    layout = layout_of(path)
    if layout == "pipeline":
        return _rest_of_pipeline(path)
    if layout == "original":
        return _rest_of_original(path)
    if layout == "checkpoint":
        return _rest_of_checkpoint(path)
    raise CheckpointError(
        f"{path} does not hold the rest of a pipeline (VAE, text encoder, tokenizer): give a "
        "Diffusers folder, an original Wan 2.1 folder or a helios-jax checkpoint"
    )


def transformer_config_beside(path: Path) -> TransformerConfig | None:
    """The configuration of the transformer that belongs to a rest, if there is one."""
    layout = layout_of(path)
    if layout == "checkpoint":
        return open_checkpoint(path).config.transformer
    if layout == "original" and (path / "config.json").exists():
        return original_transformer_config(path / "config.json")
    if layout == "pipeline" and (path / "transformer/config.json").exists():
        return read_transformer_config(path / "transformer/config.json")
    return None


def describe_other(path: Path, layout: str) -> str:
    """What a place is whose transformer cannot be read."""
    if layout == "checkpoint":
        return (
            "is a helios-jax checkpoint already: pass --to_diffusers to turn it into a Diffusers "
            "folder"
        )
    if layout == "adapter":
        return f"is the folder of an adapter. {kinds.ADAPTER_ADVICE}"
    held = sorted(
        file.name for file in path.iterdir() if file.suffix in (".safetensors", ".gguf", ".pth")
    )
    advice = f"; it holds {', '.join(held[:3])}: give the file itself as --source" if held else ""
    return (
        f"is neither a Diffusers folder (no {PIPELINE}) nor an original Wan 2.1 folder (no "
        f"{WAN_FILES['vae']}){advice}"
    )


def _of_pipeline(folder: Path, chosen: str | None) -> Transformer:
    index = read_index(folder)
    check_class(folder, index)
    name = chosen or "transformer"
    if not (folder / name).is_dir():
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
    if (stated := str(values.get("model_type"))) in kinds.MODEL_TYPES:
        raise CheckpointError(
            f"{path}: model_type={stated!r}, {kinds.MODEL_TYPES[stated]}; Helios starts from the "
            "text-to-video model, 't2v'"
        )
    tensors, notes = _normalised(folder, read_folder(folder))
    if "num_heads" in values:
        return Transformer(original_transformer_config(path), tensors, True, notes)
    is_wan = not kind.startswith("Helios") if is_wan is None else is_wan
    return Transformer(read_transformer_config(path), tensors, is_wan, notes)


def _of_file(path: Path, like: TransformerConfig | None) -> Transformer:
    own, others = without_prefix(path, read_tensors(path))
    notes: tuple[str, ...] = ()
    if others:
        groups = ", ".join(sorted({name.split(".")[0] for name in others})[:6])
        notes = (f"left out: {groups} ({len(others)} in all), which are not the transformer's",)
    tensors, more = _normalised(path, own)
    is_wan = not any(re.match(wan.HISTORY_PATCHES, name) for name in tensors)
    return Transformer(config_of(path, tensors, like), tensors, is_wan, notes + more)


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
    patch = tensors.get("patch_embedding.weight")
    channels = patch.shape[1] if patch is not None and len(patch.shape) > 1 else None
    if kind := kinds.kind_of(tensors, channels):
        raise CheckpointError(f"{path} is the transformer of {kind}. {kinds.ADVICE}")
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
    return wan.renamed(kept, EARLIER_NAMES), tuple(notes)


def _rest_of_pipeline(folder: Path) -> Rest:
    if absent := [name for name in (*REST, TOKENIZER) if not (folder / name).is_dir()]:
        raise CheckpointError(
            f"{folder} has no {', '.join(absent)}: give the folder of a whole pipeline, or the "
            "rest of it with --rest"
        )
    index = read_index(folder)
    scheduler = None
    if index.get("_class_name") in HELIOS:
        scheduler = read_scheduler(folder / "scheduler/scheduler_config.json")
    return Rest(
        vae=read_vae(folder / "vae/config.json"),
        text_encoder=read_text_encoder(folder / "text_encoder/config.json"),
        tensors={component: read_folder(folder / component) for component in REST},
        tokenizer=folder / TOKENIZER,
        scheduler=scheduler,
        sample=sample_defaults(scheduler, index) if scheduler else None,
    )


def _rest_of_original(folder: Path) -> Rest:
    if absent := [name for name in WAN_FILES.values() if not (folder / name).exists()]:
        raise CheckpointError(
            f"{folder} looks like an original Wan 2.1 folder, but has no {', '.join(absent)}; the "
            "rest of another folder can be given with --rest"
        )
    vae, vae_tensors = original_vae(folder)
    text_encoder, text_tensors = original_text_encoder(folder)
    tensors = {"vae": vae_tensors, "text_encoder": text_tensors}
    return Rest(vae, text_encoder, tensors, folder / WAN_FILES["tokenizer"], None, None)


def _rest_of_checkpoint(folder: Path) -> Rest:
    opened = open_checkpoint(folder)
    files = opened.files
    if absent := [name for name in (*REST, TOKENIZER) if not files.under(name)]:
        raise CheckpointError(f"{folder} has no {', '.join(absent)}, which --rest should give")
    for component in REST:
        files.check(files.under(component))
    config = opened.config
    return Rest(
        vae=config.vae,
        text_encoder=config.text_encoder,
        tensors={component: dict(torch_tensors(opened, component)) for component in REST},
        tokenizer=files.path(TOKENIZER),
        scheduler=config.scheduler,
        sample=config.sample,
    )


def wan_sampling() -> tuple[SchedulerConfig, SampleConfig]:
    """How a model that starts from Wan is sampled: as Helios-Base."""
    return BASE_SCHEDULER, sample_defaults(BASE_SCHEDULER, {})
