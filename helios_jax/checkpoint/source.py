"""Recognising a folder of PyTorch weights, and presenting it in Diffusers' names: configuration,
tensors by component, tokenizer.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helios_jax.checkpoint import wan
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.diffusers_config import (
    BASE_SCHEDULER,
    PIPELINE,
    checked,
    read_config,
    sample_defaults,
)
from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.files import DIGESTS, read_json
from helios_jax.checkpoint.lora import merge
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.checkpoint.pth import read_pth
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_folder
from helios_jax.config import (
    HeliosConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
    from_dict,
)

Components = dict[str, dict[str, TorchTensor]]

WAN_FILES = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "google/umt5-xxl",
}
"""What an original Wan 2.1 folder holds beside the transformer's safetensors and config.json."""

EARLIER_NAMES: wan.Rules = (
    (r"^scale_shift_table$", "norm_out.scale_shift_table"),
    (r"^(clean_patch_embedding|multi_term_memory_patch)\.(patch_)?", "patch_"),
    (r"^patch_proj\.", "patch_short."),
    (r"^patch_proj_2x\.", "patch_mid."),
    (r"^patch_proj_4x\.", "patch_long."),
)
"""Names of Wan in Diffusers and of earlier Helios files, to today's."""

TIED = ("shared.weight", "encoder.embed_tokens.weight")
"""The text encoder's one embedding: files hold either name or both."""

CAUSES = (
    (
        "unexpected",
        r"[qkv]_loras\.",
        "q_loras, k_loras and v_loras are artefacts of training with restrict_lora: use the merged "
        "release",
    ),
    (
        "unexpected",
        r"\.lora_(A|B|up|down)\b",
        "Those are LoRA weights: give the base as --source and this file as --lora",
    ),
    (
        "unexpected",
        r"img_emb|image_embedder|[kv]_img|add_[kv]_proj",
        "This is an image-to-video Wan; Helios starts from text-to-video",
    ),
    (
        "unexpected",
        r"history_key_scale",
        "The transformer's config.json should say is_amplify_history: true",
    ),
    (
        "missing",
        r"history_key_scale",
        "The transformer's config.json should say is_amplify_history: false",
    ),
    (
        "missing",
        r"^patch_(short|mid|long)\.",
        "Without its history patches this is a Wan transformer: pass --init_from_wan",
    ),
    (
        "missing",
        r"",
        "A shard may be missing, or the folder may hold another model than its config.json says",
    ),
    ("unexpected", r"", "The folder may hold another model than its config.json says"),
)
"""Which kind of difference, in which names, points to what; the first that matches is reported."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of PyTorch weights, every tensor present and of the right shape.

    Attributes:
      config: what its configurations say.
      tensors: by component and name.
      tied: which of :data:`TIED` the text encoder's files hold; ``tensors`` has the first in any
        case.
      tokenizer: its folder.
    """

    config: HeliosConfig
    tensors: Components
    tied: tuple[str, ...]
    tokenizer: Path


def read_source(
    folder: Path,
    init_from_wan: bool = False,
    adapters: Sequence[AdapterFile] = (),
    partial: Path | None = None,
) -> Source:
    """Read a Diffusers folder of Helios, or a Wan 2.1 folder of Diffusers or of the original
    release.

    Args:
      folder: the pipeline's folder.
      init_from_wan: the folder is Wan's, to which Helios' history patches are added.
      adapters: merged into the transformer, see :func:`helios_jax.checkpoint.lora.merge`.
      partial: likewise.

    Raises:
      CheckpointError: if the folder is none of these, or incomplete.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a directory: give the folder of a whole pipeline")
    pipeline_file = folder / PIPELINE
    original = not pipeline_file.exists() and (folder / WAN_FILES["vae"]).exists()
    if not original and not pipeline_file.exists():
        raise CheckpointError(f"{folder} {_describe_other_folder(folder)}")
    pipeline = {"_class_name": "WanPipeline"} if original else read_json(pipeline_file)
    kind = str(pipeline.get("_class_name"))
    if kind not in ("WanPipeline", "HeliosPipeline", "HeliosPyramidPipeline"):
        raise CheckpointError(
            f"{pipeline_file}: {kind} is not a Helios pipeline, nor the WanPipeline of Wan 2.1"
        )
    if init_from_wan != (kind == "WanPipeline"):
        advice = (
            "has its history patches: leave out --init_from_wan"
            if init_from_wan
            else "is a Wan folder: pass --init_from_wan"
        )
        raise CheckpointError(f"{folder} {advice}")

    config, tensors = _read_original(folder) if original else _read_diffusers(folder, pipeline)
    if init_from_wan:
        _check(folder, {"transformer": tensors["transformer"]}, config, without=wan.HISTORY_PATCHES)
        tensors["transformer"] = wan.with_history_patches(tensors["transformer"])
    tied = tuple(name for name in TIED if name in tensors["text_encoder"])
    tensors["text_encoder"] = _without_tied_copy(folder, tensors["text_encoder"])
    _check(folder, tensors, config)
    if adapters or partial:
        tensors["transformer"] = merge(tensors["transformer"], adapters, partial)
        config = _with_history_scale(config, tensors["transformer"])
        _check(folder, tensors, config)
    return Source(
        config, tensors, tied, folder / (WAN_FILES["tokenizer"] if original else "tokenizer")
    )


def _read_diffusers(folder: Path, pipeline: Mapping) -> tuple[HeliosConfig, Components]:
    if absent := [name for name in (*COMPONENTS, "tokenizer") if not (folder / name).is_dir()]:
        raise CheckpointError(
            f"{folder} has no {', '.join(absent)}: give the folder of a whole pipeline"
        )
    tensors = {component: read_folder(folder / component) for component in COMPONENTS}
    transformer = {
        name: tensor
        for name, tensor in tensors["transformer"].items()
        if "norm_added_q" not in name
    }
    return read_config(folder, pipeline), tensors | {
        "transformer": wan.renamed(transformer, EARLIER_NAMES)
    }


def _read_original(folder: Path) -> tuple[HeliosConfig, Components]:
    if absent := [name for name in WAN_FILES.values() if not (folder / name).exists()]:
        raise CheckpointError(
            f"{folder} looks like an original Wan 2.1 folder, but has no {', '.join(absent)}"
        )
    files = {
        "transformer": (read_folder(folder), wan.TRANSFORMER),
        "vae": (read_pth(folder / WAN_FILES["vae"]), wan.VAE),
        "text_encoder": (read_pth(folder / WAN_FILES["text_encoder"]), wan.TEXT_ENCODER),
    }
    tensors = {component: wan.renamed(found, rules) for component, (found, rules) in files.items()}
    config = checked(
        folder,
        HeliosConfig,
        transformer=_original_transformer(folder / "config.json"),
        vae=VAEConfig(base_dim=_size(folder, tensors["vae"], "encoder.conv_in.weight", 0)),
        text_encoder=_original_text_encoder(folder, tensors["text_encoder"]),
        scheduler=BASE_SCHEDULER,
        sample=sample_defaults(BASE_SCHEDULER, {}),
    )
    return config, tensors


def _original_transformer(path: Path) -> TransformerConfig:
    """The transformer that an original ``config.json`` describes."""
    values = read_json(path)
    if values.get("model_type", "t2v") != "t2v":
        raise CheckpointError(
            f"{path}: model_type={values['model_type']!r}; Helios starts from the text-to-video "
            "model, 't2v'"
        )
    try:
        fields = {name: values[name] for name in ("freq_dim", "ffn_dim", "num_layers", "eps")}
        fields |= {"in_channels": values["in_dim"], "out_channels": values["out_dim"]}
        heads = values["num_heads"]
        head_dim = values["dim"] // heads
        fields |= {
            "num_attention_heads": heads,
            "attention_head_dim": head_dim,
            "rope_dim": wan.rope_dim(head_dim),
            "text_dim": values.get("text_dim", 4096),
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} is not the config.json of a Wan 2.1 model ({type(error).__name__}: {error})"
        ) from error
    return checked(path, from_dict, TransformerConfig, fields)


def _original_text_encoder(folder: Path, tensors: Mapping[str, TorchTensor]) -> TextEncoderConfig:
    """The geometry of the text encoder, for which an original folder has no configuration, from its
    tensors.
    """
    first = "encoder.block.0.layer"
    heads = _size(folder, tensors, f"{first}.0.SelfAttention.relative_attention_bias.weight", 1)
    return TextEncoderConfig(
        vocab_size=_size(folder, tensors, "shared.weight", 0),
        d_model=_size(folder, tensors, "shared.weight", 1),
        d_kv=_size(folder, tensors, f"{first}.0.SelfAttention.q.weight", 0) // heads,
        d_ff=_size(folder, tensors, f"{first}.1.DenseReluDense.wi_0.weight", 0),
        num_layers=sum(name.endswith("layer.0.layer_norm.weight") for name in tensors),
        num_heads=heads,
        relative_attention_num_buckets=_size(
            folder, tensors, f"{first}.0.SelfAttention.relative_attention_bias.weight", 0
        ),
    )


def _size(folder: Path, tensors: Mapping[str, TorchTensor], name: str, axis: int) -> int:
    if name not in tensors:
        raise CheckpointError(
            f"{folder} is not an original Wan 2.1 folder: after renaming, {name} is missing"
        )
    shape = tensors[name].shape
    if len(shape) <= axis or not shape[axis]:
        raise CheckpointError(f"{folder}: {name} is {list(shape)}: its axis {axis} is missing")
    return shape[axis]


def _without_tied_copy(folder: Path, tensors: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
    """The text encoder with its embedding under the first of :data:`TIED` only."""
    embeddings = [tensors[name] for name in TIED if name in tensors]
    if len(embeddings) == 2 and not _equal(*embeddings):
        raise CheckpointError(
            f"{folder}: {' and '.join(TIED)} differ; they should be one embedding"
        )
    rest = {name: tensor for name, tensor in tensors.items() if name not in TIED}
    return {TIED[0]: embeddings[0], **rest} if embeddings else rest


def _equal(one: TorchTensor, other: TorchTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    rows = range(0, one.shape[0], 4096)
    return all(
        np.array_equal(one.read()[row : row + 4096], other.read()[row : row + 4096]) for row in rows
    )


def _with_history_scale(config: HeliosConfig, tensors: Mapping[str, TorchTensor]) -> HeliosConfig:
    """``config`` with ``is_amplify_history`` switched on if a partial file brought the scales."""
    scale = tensors.get("blocks.0.attn1.history_key_scale")
    if scale is None or config.transformer.is_amplify_history:
        return config
    mode = "scalar" if scale.shape == (1,) else "per_head"
    return dataclasses.replace(
        config,
        transformer=dataclasses.replace(
            config.transformer, is_amplify_history=True, history_scale_mode=mode
        ),
    )


def _check(
    folder: Path,
    tensors: Mapping[str, Mapping[str, TorchTensor]],
    config: HeliosConfig,
    without: str = r"$^",
) -> None:
    """Compare tensors with the name tables, less the names that ``without`` matches."""
    for component, found in tensors.items():
        expected = {
            slot.name: slot.shape
            for slot in component_slots(config, component)
            if not re.match(without, slot.name)
        }
        check_tensors(
            f"{component} of {folder}",
            expected,
            {name: tensor.shape for name, tensor in found.items()},
            _likely_cause,
        )


def _likely_cause(missing: set[str], unexpected: set[str]) -> str | None:
    names = {"missing": missing, "unexpected": unexpected}
    for kind, pattern, cause in CAUSES:
        if any(re.search(pattern, name) for name in names[kind]):
            return cause
    return None


def _describe_other_folder(folder: Path) -> str:
    """What a folder is that is not a pipeline of PyTorch weights."""
    if (folder / DIGESTS).exists():
        return (
            "is a helios-jax checkpoint already: pass --to_diffusers to turn it into a Diffusers "
            "folder"
        )
    vae = WAN_FILES["vae"]
    if (folder / "config.json").exists():
        kind = read_json(folder / "config.json").get("_class_name", "component")
        return (
            f"holds one {kind} only: give the folder of the whole pipeline, which has {PIPELINE} "
            f"(or {vae})"
        )
    return (
        f"is neither a Diffusers folder (no {PIPELINE}) nor an original Wan 2.1 folder (no {vae})"
    )
