"""VAE and text encoder in a file of all parts, as ComfyUI saves them beside a transformer."""

import re
from collections.abc import Mapping
from pathlib import Path

from helios_jax.checkpoint import float8, wan
from helios_jax.checkpoint.safetensors_files import TorchTensor

PREFIXES = {
    "vae": r"(vae|first_stage_model)\.",
    "text_encoder": r"(text_encoders|cond_stage_model)\.(umt5xxl\.)?(transformer\.)?",
}
"""What stands before the tensors of a part."""

SIGNS = {
    "vae": ("encoder.conv1.weight", "decoder.conv1.weight", "conv2.weight"),
    "text_encoder": ("shared.weight", "encoder.final_layer_norm.weight"),
}
"""Tensors that a part has which is whole, in the names that it has there: the VAE in those of the
original Wan, the text encoder in those of Transformers.
"""

BESIDE = ("logit_scale", "spiece_model")
"""What ComfyUI keeps with a text encoder; the tokenizer is another place's."""


def find_bundled(
    path: Path, others: Mapping[str, TorchTensor]
) -> tuple[dict[str, dict[str, TorchTensor]], list[str]]:
    """The parts that lie beside a transformer in one file.

    Args:
      path: for messages.
      others: the tensors that are not the transformer's.

    Returns:
      By component, tensors in the names of Diffusers and Transformers; and the names of the tensors
      that are left.

    Raises:
      CheckpointError: if weights in float8 have scales that do not fit.
    """
    parts: dict[str, dict[str, TorchTensor]] = {}
    taken: set[str] = set()
    for component, prefix in PREFIXES.items():
        named = {}
        for name, tensor in others.items():
            if match := re.match(prefix, name):
                named[name[match.end() :]] = tensor
        if not all(sign in named for sign in SIGNS[component]):
            continue
        taken |= {name for name in others if re.match(prefix, name)}
        own = {name: tensor for name, tensor in named.items() if name not in BESIDE}
        own = float8.widened(path, own)
        parts[component] = wan.renamed(own, wan.VAE) if component == "vae" else own
    return parts, [name for name in others if name not in taken]
