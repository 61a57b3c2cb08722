"""Blocks whose parameters are stacked on a leading axis: the parameters of one layer, and what the
backward pass keeps of it.
"""

from collections.abc import Callable
from typing import Any

import jax

from helios_jax.kernels.attention import ATTENTION_OUTPUT
from helios_jax.types import Array, Int, Params

BLOCK_INPUT = "block input"
"""Name of a block's input, for a ``jax.checkpoint`` policy that offloads it."""

TEXT_ATTENTION_OUTPUT = "text attention output"
"""Name of what attention to the text gives, which is as large as what self-attention gives and
computed in a twentieth of the time.
"""

PRODUCT = "product with weights"
"""Name of what a projection gives, its bias and its adapter's product in it, and of the small
product inside an adapter.
"""

COPY_OPTIONS = {"xla_gpu_experimental_parallel_async_compute_limit": 64}
"""Compiler options of programs whose layers are in host memory: as many copies at a time as a layer
has arrays. By default two, and XLA waits for all the others before it computes.
"""

REMAT = {
    "blocks": None,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT),
    "products": jax.checkpoint_policies.save_only_these_names(
        ATTENTION_OUTPUT, TEXT_ATTENTION_OUTPUT, PRODUCT
    ),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
"""For each value of ``TransformerConfig.remat``, what the backward pass need not compute again."""


def layer_params(stack: Params, layer: int | Int[Array, ""]) -> Params:
    """The parameters of one layer, on the device; from a stack in host memory they are copied.

    Args:
      stack: a tree of leaves that are stacked on their first axis, or tuples of one array a layer.
      layer: its number, which is static where the layers are separate.
    """

    def take(leaf):
        if isinstance(leaf, tuple):
            return leaf[layer]
        leaf = jax.lax.dynamic_index_in_dim(
            leaf, layer, keepdims=False, allow_negative_indices=False
        )
        return jax.device_put(leaf, jax.memory.Space.Device)

    return jax.tree.map(take, stack, is_leaf=is_separate_leaf)


def is_in_host_memory(stack: Params) -> bool:
    """Whether leaves of a stack are in host memory, from where layers are copied."""
    spaces = (getattr(jax.typeof(leaf), "memory_space", None) for leaf in jax.tree.leaves(stack))
    return any(space == jax.memory.Space.Host for space in spaces)


def is_separate_leaf(leaf: Any) -> bool:
    """Whether a leaf of a stack is a tuple of one array a layer."""
    return isinstance(leaf, tuple)


def is_separate(stack: Params) -> bool:
    """Whether any leaf of a stack is one array a layer, so that its layers must be static.

    XLA copies a layer of a stack before it multiplies by it, 68 of 1657 ms of a chunk of the 14B
    model as predicted for an H200; separate arrays it does not.
    """
    leaves = jax.tree.leaves(stack, is_leaf=is_separate_leaf)
    return any(is_separate_leaf(leaf) for leaf in leaves)


def separate_layers(stack: Params) -> Params:
    """A stack with every leaf ``[L, ...]`` as a tuple of L arrays, which may be abstract."""

    def separate(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return (jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),) * leaf.shape[0]
        return leaf if is_separate_leaf(leaf) else tuple(leaf)

    return jax.tree.map(separate, stack, is_leaf=is_separate_leaf)


def rematerialized(f: Callable[..., Any], remat: str | None) -> Callable[..., Any]:
    """``f`` under ``jax.checkpoint`` with the policy ``REMAT[remat]``.

    Without it the backward pass would keep a copy of each layer's weights beside the stack.
    """
    return jax.checkpoint(f, policy=REMAT[remat]) if remat else f
