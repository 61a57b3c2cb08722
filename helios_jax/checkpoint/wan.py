"""Wan 2.1: its original tensor names, as ordered substitutions, and what Helios adds to it.

Sources: the Wan 2.1 repository's module names; Helios initialises its history patches from Wan's
patch embedding (paper, section 3).
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.safetensors_files import TorchTensor

Rules = Sequence[tuple[str, str]]
"""Regular expressions and what replaces them, applied in order to every name."""

HISTORY_PATCHES = r"patch_(short|mid|long)\."
"""What Wan does not have."""

TRANSFORMER: Rules = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^head\.modulation$", "norm_out.scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"\.modulation$", ".scale_shift_table"),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
    # Wan counts its norms in the order of the sublayers, Diffusers puts the one with weights
    # second: norm2 and norm3 change places.
    (r"\.norm2\.", ".norm_swapped."),
    (r"\.norm3\.", ".norm2."),
    (r"\.norm_swapped\.", ".norm3."),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
    (r"\.(attn[12])\.o\.", r".\1.to_out.0."),
)

EARLIER_NAMES: Rules = (
    (r"^scale_shift_table$", "norm_out.scale_shift_table"),
    (r"^(clean_patch_embedding|multi_term_memory_patch)\.(patch_)?", "patch_"),
    (r"^patch_proj\.", "patch_short."),
    (r"^patch_proj_2x\.", "patch_mid."),
    (r"^patch_proj_4x\.", "patch_long."),
)
"""Names of Wan in Diffusers and of earlier Helios files, to today's."""

VAE: Rules = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"coder\.conv1\.", "coder.conv_in."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.downsamples\.", ".down_blocks."),
    # The decoder's one list is three residual blocks and an upsampling for each stage.
    *(
        (rf"\.upsamples\.{number}\.", f".up_blocks.{number // 4}.resnets.{number % 4}.")
        for number in range(15)
        if number % 4 < 3
    ),
    *(
        (rf"\.upsamples\.{4 * stage + 3}\.", f".up_blocks.{stage}.upsamplers.0.")
        for stage in range(3)
    ),
)

TEXT_ENCODER: Rules = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.", "encoder.block."),
    (r"\.norm1\.", ".layer.0.layer_norm."),
    (r"\.norm2\.", ".layer.1.layer_norm."),
    (r"\.attn\.", ".layer.0.SelfAttention."),
    (r"\.pos_embedding\.embedding\.", ".layer.0.SelfAttention.relative_attention_bias."),
    (r"\.ffn\.gate\.0\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.ffn\.fc1\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.ffn\.fc2\.", ".layer.1.DenseReluDense.wo."),
)


def rename(name: str, rules: Rules) -> str:
    """``name`` after every rule."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(tensors: Mapping[str, TorchTensor], rules: Rules) -> dict[str, TorchTensor]:
    """Tensors under their names after every rule.

    Raises:
      CheckpointError: if two end up under one name.
    """
    result: dict[str, TorchTensor] = {}
    for old, tensor in tensors.items():
        name = rename(old, rules)
        if name in result:
            raise CheckpointError(
                f"two tensors are {name}, one of them under the other name {old}: keep one of them"
            )
        result[name] = tensor
    return result


def rope_dim(head_dim: int) -> tuple[int, int, int]:
    """How Wan splits a head's channels among time, rows and columns, which its configurations do
    not say.
    """
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def with_history_patches(tensors: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
    """Wan's transformer with the patch embeddings of the history, as Helios starts them.

    ``patch_short`` is ``patch_embedding``. ``patch_mid`` and ``patch_long`` see 2 and 4 times as
    many cells in each direction; each repeats the kernel's elements that often and divides by how
    many there now are for one: it gives an enlarged picture the small picture's tokens.
    """
    weight = tensors["patch_embedding.weight"]
    added = {}
    for name, factor in {"patch_short": 1, "patch_mid": 2, "patch_long": 4}.items():
        shape = (*weight.shape[:2], *(factor * size for size in weight.shape[2:]))
        read = functools.partial(_enlarged, weight, factor)
        added[f"{name}.weight"] = TorchTensor(weight.dtype, shape, read)
        added[f"{name}.bias"] = tensors["patch_embedding.bias"]
    return {**tensors, **added}


def without_history(
    tensors: Iterable[tuple[str, TorchTensor]],
) -> Iterator[tuple[str, TorchTensor]]:
    """Helios' transformer as Wan's, under the names of Wan in Diffusers."""
    for name, tensor in tensors:
        if not re.match(HISTORY_PATCHES, name):
            yield name.replace("norm_out.scale_shift_table", "scale_shift_table"), tensor


def _enlarged(kernel: TorchTensor, factor: int) -> np.ndarray:
    """A kernel whose elements are repeated ``factor`` times along each axis of time and space, and
    divided by how many there now are for one.
    """
    weight = kernel.read()
    for axis in (2, 3, 4):
        weight = np.repeat(weight, factor, axis)
    return weight / np.asarray(factor**3, weight.dtype)
