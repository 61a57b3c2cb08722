"""Folders of the original Wan releases: a transformer in safetensors with ``config.json``, the VAE
and the text encoder as ``.pth``, the tokenizer in ``google/``.

Wan 2.1 has its transformer beside the rest. Wan 2.2 A14B has two, each in a folder of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helios_jax.checkpoint import kinds, wan
from helios_jax.checkpoint.diffusers_config import checked
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.options import ORIGINAL_OPTIONS, check_known
from helios_jax.checkpoint.pipeline_index import WEIGHTS
from helios_jax.checkpoint.pth import read_pth
from helios_jax.checkpoint.safetensors_files import TorchTensor
from helios_jax.config import TextEncoderConfig, TransformerConfig, VAEConfig, from_dict

WAN_FILES = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "google/umt5-xxl",
}
"""What an original Wan folder holds beside the transformer's safetensors and config.json."""

VAE_OF_48_CHANNELS = "Wan2.2_VAE.pth"
EXPERTS = ("high_noise_model", "low_noise_model")
"""Folders of Wan 2.2 A14B's two transformers."""


def is_original(folder: Path) -> bool:
    """Whether a folder looks like an original release."""
    files = (WAN_FILES["vae"], WAN_FILES["text_encoder"], VAE_OF_48_CHANNELS, *EXPERTS)
    return any((folder / name).exists() for name in files)


def original_transformer_folder(folder: Path, chosen: str | None) -> Path:
    """The folder of the transformer of an original release.

    Args:
      folder: of the release.
      chosen: the name of one of several; None: the only one.

    Raises:
      CheckpointError: if there are two and none was chosen, or the release is one that Helios does
        not start from.
    """
    if (folder / VAE_OF_48_CHANNELS).exists() and not (folder / WAN_FILES["vae"]).exists():
        raise CheckpointError(
            f"{folder} is Wan 2.2 TI2V-5B, whose VAE ({VAE_OF_48_CHANNELS}) has 48 channels where "
            f"Helios' has 16. {kinds.ADVICE}"
        )
    if unread := _unread(folder):
        raise CheckpointError(
            f"{folder} has weights that are not read: {', '.join(unread[:4])}; an image-to-video "
            f"Wan has an image encoder there. {kinds.ADVICE}"
        )
    experts = [name for name in EXPERTS if (folder / name).is_dir()]
    if chosen in experts:
        return folder / chosen
    if chosen is not None:
        there = ", ".join(experts) or "one transformer only, which needs no --transformer"
        raise CheckpointError(f"{folder} has no transformer {chosen}; it has {there}")
    for name in experts:  # an image-to-video A14B would be refused after the choice, too
        if (folder / name / "config.json").is_file():
            _check_type(folder / name / "config.json")
    if experts and not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} is Wan 2.2 A14B, with a transformer for high noise and one for low noise "
            f"({' and '.join(experts)}); Helios has one: choose with "
            f"{' or '.join(f'--transformer {name}' for name in experts)}"
        )
    return folder


def _unread(folder: Path) -> list[str]:
    """Files and folders of weights beside those that are read."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name in (*WAN_FILES.values(), *EXPERTS) or entry.name.startswith("."):
            continue
        if entry.is_dir():
            tokenizer = entry.name == WAN_FILES["tokenizer"].split("/")[0]
            if not tokenizer and any(file.suffix in WEIGHTS for file in entry.rglob("*")):
                found.append(entry.name)
        elif entry.suffix in WEIGHTS and entry.suffix != ".safetensors":
            found.append(entry.name)
    return found


def original_transformer_config(path: Path) -> TransformerConfig:
    """The transformer that an original ``config.json`` describes."""
    values = _check_type(path)
    for key, value in values.items():
        check_known(path, ORIGINAL_OPTIONS, key, value)
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


def _check_type(path: Path) -> dict[str, Any]:
    """The values of an original ``config.json``, refused where they are of another kind of Wan."""
    values = read_json(path)
    stated = values.get("model_type") or "t2v"
    kind = kinds.MODEL_TYPES.get(str(stated)) or kinds.kind_of([], values.get("in_dim"))
    if stated != "t2v" or kind:
        said = (
            f"model_type={str(stated)[:50]!r}" if stated != "t2v" else f"in_dim={values['in_dim']}"
        )
        raise CheckpointError(f"{path}: {said}{f', {kind}' if kind else ''}. {kinds.ADVICE}")
    return values


def original_vae(folder: Path) -> tuple[VAEConfig, dict[str, TorchTensor]]:
    """The VAE of an original release, in Diffusers' names."""
    tensors = wan.renamed(read_pth(folder / WAN_FILES["vae"]), wan.VAE)
    return VAEConfig(base_dim=_size(folder, tensors, "encoder.conv_in.weight", 0)), tensors


def original_text_encoder(folder: Path) -> tuple[TextEncoderConfig, dict[str, TorchTensor]]:
    """The text encoder of an original release, in Transformers' names, and its geometry, for which
    the release has no configuration, from its tensors.
    """
    tensors = wan.renamed(read_pth(folder / WAN_FILES["text_encoder"]), wan.TEXT_ENCODER)
    first = "encoder.block.0.layer"
    heads = _size(folder, tensors, f"{first}.0.SelfAttention.relative_attention_bias.weight", 1)
    config = TextEncoderConfig(
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
    return config, tensors


def _size(folder: Path, tensors: Mapping[str, TorchTensor], name: str, axis: int) -> int:
    if name not in tensors:
        raise CheckpointError(
            f"{folder} is not an original Wan 2.1 folder: after renaming, {name} is missing"
        )
    shape = tensors[name].shape
    if len(shape) <= axis or not shape[axis]:
        raise CheckpointError(f"{folder}: {name} is {list(shape)}: its axis {axis} is missing")
    return shape[axis]
