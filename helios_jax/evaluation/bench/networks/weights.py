"""Reading the weights of HeliosBench's networks from the files in which they are published.

Sizes are read off the tensors; a head of attention has 64 channels in all of CLIP's.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.layout import Slot
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_file, read_folder
from helios_jax.checkpoint.torchscript import read_archive
from helios_jax.evaluation.bench.networks import names
from helios_jax.evaluation.bench.networks.amt_names import amt_slots
from helios_jax.evaluation.bench.networks.clip import VisionConfig
from helios_jax.evaluation.bench.networks.viclip import TextConfig
from helios_jax.types import DTypeLike, Params

Tensors = Mapping[str, TorchTensor]
HEAD_WIDTH = 64


def read_clip(path: str | os.PathLike) -> tuple[VisionConfig, Params]:
    """CLIP's image encoder: ``ViT-L-14.pt``, or the file or folder of Transformers.

    Raises:
      CheckpointError: if there is none, naming every tensor that is missing or misshaped.
    """
    tensors = read_tensors(path)
    if any(name.startswith(names.CLIP_PREFIX) for name in tensors):
        found = _with_prefix(tensors, names.CLIP_PREFIX)
        config = _vision_config(path, found, "conv1.weight", "positional_embedding", "proj", 1)
        return config, build_params(path, names.clip_slots(config), found)
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(names.CLIP_HF_PREFIX) or name == names.CLIP_HF_PROJECTION
    }
    embeddings = f"{names.CLIP_HF_PREFIX}embeddings"
    found.pop(f"{embeddings}.position_ids", None)  # 0, 1, 2, ...; older versions saved it
    patch = f"{embeddings}.patch_embedding.weight"
    position = f"{embeddings}.position_embedding"
    config = _vision_config(path, found, patch, f"{position}.weight", names.CLIP_HF_PROJECTION, 0)
    return config, build_params(path, names.clip_hf_slots(config), found)


def read_aesthetic_head(path: str | os.PathLike, features: int) -> Params:
    """LAION's head on an encoder with that many features.

    Raises:
      CheckpointError: if it is another encoder's, or no head.
    """
    slots = names.aesthetic_slots(VisionConfig(features=features))
    return build_params(path, slots, read_tensors(path))


def read_viclip(path: str | os.PathLike) -> tuple[VisionConfig, TextConfig, dict[str, Params]]:
    """ViCLIP's encoders, by ``"video"`` and ``"text"``: the ``.pth`` file or its safetensors.

    Raises:
      CheckpointError: if there are none, naming every tensor that is missing or misshaped.
    """
    tensors = read_tensors(path)
    video, text = (_with_prefix(tensors, prefix) for prefix in names.VICLIP_PREFIXES)
    vision = _vision_config(path, video, "conv1.weight", "positional_embedding", "proj", 1)
    frames = _size(path, video, "temporal_positional_embedding", 1)
    vision = VisionConfig(**{**vars(vision), "frames": frames})
    width = _size(path, text, "token_embedding.weight", 1)
    words = TextConfig(
        vocab_size=_size(path, text, "token_embedding.weight", 0),
        context=_size(path, text, "positional_embedding", 0),
        width=width,
        layers=_layers(text, "ln_1.weight"),
        heads=width // HEAD_WIDTH,
        features=_size(path, text, "text_projection", 1),
    )
    return (
        vision,
        words,
        {
            "video": build_params(path, names.viclip_vision_slots(vision), video),
            "text": build_params(path, names.viclip_text_slots(words), text),
        },
    )


def read_amt(path: str | os.PathLike) -> Params:
    """AMT-S: ``amt-s.pth``.

    Raises:
      CheckpointError: if it is something else, naming every tensor that is missing or misshaped.
    """
    return build_params(path, amt_slots(), read_tensors(path))


def read_tensors(path: str | os.PathLike) -> dict[str, TorchTensor]:
    """The tensors of a file, or of a folder with safetensors files, by name.

    Args:
      path: ``.safetensors``, a file of ``torch.save``, a TorchScript archive, or a folder. Nothing
        that a file contains is run.

    Raises:
      CheckpointError: if it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".safetensors":
        return read_file(path)[0]
    return read_archive(path)


def build_params(
    what: str | os.PathLike, slots: list[Slot], tensors: Tensors, dtype: DTypeLike = jnp.float32
) -> Params:
    """The parameter tree of a name table.

    Args:
      what: the file, for messages.
      slots: the table.
      tensors: by the table's names.
      dtype: of the parameters.

    Raises:
      CheckpointError: naming every missing, unexpected and misshaped tensor.
    """
    expected = {slot.name: slot.shape for slot in slots}
    if not expected.keys() & tensors.keys():
        raise CheckpointError(f"{what} lacks {slots[0].name}: it is the file of another network")
    check_tensors(str(what), expected, {name: tensor.shape for name, tensor in tensors.items()})
    leaves: dict[str, np.ndarray] = {}
    for slot in slots:
        if slot.path not in leaves:
            leaves[slot.path] = np.empty(slot.leaf_shape, jnp.dtype(dtype))
        leaves[slot.path][slot.index] = slot.to_jax(tensors[slot.name].read())
    return unflatten_dict({path: jnp.asarray(leaf) for path, leaf in leaves.items()}, sep="/")


def _with_prefix(tensors: Tensors, prefix: str) -> dict[str, TorchTensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _vision_config(
    path: str | os.PathLike, tensors: Tensors, patch: str, position: str, proj: str, outs: int
) -> VisionConfig:
    """Sizes of an image encoder from its patch embedding, positions and projection."""
    width = _size(path, tensors, patch, 0)
    patch_size = _size(path, tensors, patch, -1)
    side = math.isqrt(_size(path, tensors, position, 0) - 1)
    return VisionConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        width=width,
        layers=_layers(tensors, "ln_1.weight") or _layers(tensors, "layer_norm1.weight"),
        heads=width // HEAD_WIDTH,
        features=_size(path, tensors, proj, outs),
    )


def _layers(tensors: Tensors, of_each: str) -> int:
    return sum(name.endswith(f".{of_each}") for name in tensors)


def _size(path: str | os.PathLike, tensors: Tensors, name: str, axis: int) -> int:
    if name not in tensors or not tensors[name].shape:
        raise CheckpointError(f"{path} lacks {name}: it is the file of another network")
    return tensors[name].shape[axis]
