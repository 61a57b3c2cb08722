"""A transformer in one file, as ComfyUI's users and trainers have it: without a configuration.

Tensors may have a prefix (``model.diffusion_model.``, ``diffusion_model.``, ``module.``), be named
as Wan, Helios or Diffusers name them, and be one of several entries of a pickled dictionary.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helios_jax.checkpoint import kinds, wan
from helios_jax.checkpoint.diffusers_config import checked
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.pth import View, load_pickle
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_file
from helios_jax.config import TransformerConfig

WRAPPERS = (
    "state_dict", "model", "module", "ema", "transformer", "model_ema", "ema_model",
    "ema_state_dict", "teacher", "student",
)  # fmt: skip
"""Entries of pickled dictionaries under which trainers put the tensors."""

MARK = "patch_embedding.weight"
"""A tensor that every transformer of Wan and Helios has; what stands before it is the prefix."""

HEAD_DIM = 128
"""Channels of a head in every release, which no tensor tells."""


def read_tensors(path: Path, chosen: str | None = None) -> dict[str, TorchTensor]:
    """The tensors of a file of safetensors or of ``torch.save``, by name.

    Args:
      path: the file.
      chosen: the entry of one of several transformers in it; None: the only one.

    Raises:
      CheckpointError: if it is neither, or a GGUF file, or has several transformers.
    """
    if is_gguf(path):
        raise CheckpointError(f"{path} is a GGUF file, {kinds.GGUF_ADVICE}")
    if _starts(path) != b"PK" and path.suffix not in (".pth", ".pt", ".bin", ".ckpt"):
        return _chosen(path, read_file(path)[0], chosen)
    return _tensors(path, load_pickle(path, {}), chosen)


def is_gguf(path: Path) -> bool:
    """Whether a file is llama.cpp's."""
    return path.suffix == ".gguf" or _starts(path, 4) == b"GGUF"


def _starts(path: Path, length: int = 2) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def without_prefix(
    path: Path, tensors: Mapping[str, TorchTensor]
) -> tuple[dict[str, TorchTensor], list[str]]:
    """The transformer's tensors of a file under names without the file's prefix, and the names of
    the others.

    Raises:
      CheckpointError: if it holds no transformer, saying what it holds where that is known.
    """
    prefixes = [name.removesuffix(MARK) for name in tensors if name.endswith(MARK)]
    if kinds.is_adapter(tensors):
        raise CheckpointError(f"{path} is an adapter. {kinds.ADAPTER_ADVICE}")
    if not prefixes:
        raise CheckpointError(
            f"{path} holds {what_else(tensors)}, not a transformer of Wan or Helios (no {MARK})"
        )
    prefix = min(prefixes, key=len)
    if prefix.split(".")[0] in kinds.CAUSAL_KEYS:
        raise CheckpointError(
            f"{path} is a {kinds.CAUSAL}, trained to attend to the past alone; Helios attends in "
            f"both directions. {kinds.ADVICE}"
        )
    own = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return own, [name for name in tensors if not name.startswith(prefix)]


def config_of(
    path: Path, tensors: Mapping[str, TorchTensor], like: TransformerConfig | None
) -> TransformerConfig:
    """The configuration of a transformer without one, from the shapes of its tensors.

    Args:
      path: for messages.
      tensors: in Diffusers' names.
      like: of a transformer of the same family, for what no tensor tells: the channels of a head
        where the width is the same, and the switches of the history. None: those of the releases.

    Raises:
      CheckpointError: if a tensor that tells is missing, or the width is not whole heads.
    """
    like = like or TransformerConfig()

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors or len(tensors[name].shape) < 2:
            raise CheckpointError(f"{path} has no tensor {name} that tells its geometry")
        return tensors[name].shape

    width, channels, *kernel = shape(MARK)
    head_dim = like.attention_head_dim if like.width == width else HEAD_DIM
    if width % head_dim or len(kernel) != 3 or not math.prod((width, channels, *kernel)):
        raise CheckpointError(
            f"{path}: {MARK} is {[width, channels, *kernel]}, and its width not a number of heads "
            f"of {head_dim} channels; give the rest (--rest) from a model of the same geometry, "
            "whose configuration tells"
        )
    patch = (kernel[0], kernel[1], kernel[2])
    layers = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    scale = tensors.get("blocks.0.attn1.history_key_scale")
    mode = like.history_scale_mode
    if scale is not None:
        mode = "scalar" if scale.shape == (1,) else "per_head"
    return checked(
        path,
        dataclasses.replace,
        like,
        patch_size=patch,
        num_attention_heads=width // head_dim,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=shape("proj_out.weight")[0] // math.prod(patch),
        text_dim=shape("condition_embedder.text_embedder.linear_1.weight")[1],
        freq_dim=shape("condition_embedder.time_embedder.linear_1.weight")[1],
        ffn_dim=shape("blocks.0.ffn.net.0.proj.weight")[0],
        num_layers=len(layers),
        rope_dim=like.rope_dim if head_dim == like.attention_head_dim else wan.rope_dim(head_dim),
        is_amplify_history=scale is not None,
        history_scale_mode=mode,
    )


def _chosen(
    path: Path, tensors: dict[str, TorchTensor], chosen: str | None
) -> dict[str, TorchTensor]:
    """The tensors of a file without those of the transformers that are not chosen."""
    entries = []
    for name in tensors:
        prefix = name.removesuffix(MARK)
        if prefix != name and (not prefix or prefix.endswith(".")):
            entries.append(prefix.rstrip("."))
    if chosen is None and len(entries) < 2:
        return tensors
    others = _other_entries(path, entries, chosen)
    found = {}
    for name, tensor in tensors.items():
        if "" in others:  # what has no prefix is the other transformer's
            own = name.startswith(f"{chosen}.")
        else:
            own = not any(name.startswith(f"{other}.") for other in others)
        if own:
            found[name] = tensor
    return found


def _other_entries(path: Path, entries: list[str], chosen: str | None) -> list[str]:
    """The entries of transformers that are not the chosen one.

    Raises:
      CheckpointError: if none is chosen of several, or another than those that are there.
    """
    if len(entries) < 2:
        raise CheckpointError(f"{path} has one transformer: leave out --transformer")
    if chosen not in entries:
        told = " or ".join(f"--transformer {entry}" for entry in entries[:8])
        raise CheckpointError(f"{path} has {len(entries)} transformers: choose with {told}")
    return [entry for entry in entries if entry != chosen]


def _tensors(path: Path, content: Any, chosen: str | None) -> dict[str, TorchTensor]:
    """The tensors of a pickled dictionary, or of the one of :data:`WRAPPERS` that it has."""
    if isinstance(content, Mapping):
        held = [key for key in WRAPPERS if _has_transformer(content.get(key))]
        if chosen is not None or len(held) > 1:
            _other_entries(path, held, chosen)
            content = content[chosen]
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    for key in kinds.CAUSAL_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = {f"{key}.{name}": value for name, value in content[key].items()}
    if not isinstance(content, Mapping):
        content = {}
    found = {
        str(name): value.tensor() for name, value in content.items() if isinstance(value, View)
    }
    if not found:
        keys = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        raise CheckpointError(
            f"{path} does not hold a dictionary of tensors, nor one under "
            f"{', '.join(WRAPPERS)}; it holds {keys}"
        )
    return found


def _has_transformer(entry: Any) -> bool:
    return isinstance(entry, Mapping) and any(str(name).endswith(MARK) for name in entry)


def what_else(tensors: Mapping[str, TorchTensor]) -> str:
    """What a file without a transformer holds."""
    signs = {
        "a VAE": ("decoder.",),
        "a text encoder": ("encoder.block.", "shared.", "token_embedding.", "blocks.0.attn.q"),
        "a partial file of history patches": ("patch_short.", "patch_mid.", "patch_long."),
    }
    for what, starts in signs.items():
        if any(name.startswith(starts) for name in tensors):
            return what
    first = ", ".join(sorted(tensors)[:3])
    return f"{len(tensors)} tensors ({first}{', ...' if len(tensors) > 3 else ''})"
