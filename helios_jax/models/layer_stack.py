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

REMAT = {
    "blocks": None,
    "products": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT),
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
    """The parameters of one layer, on the device; from a stack in host memory they are copied."""

    def take(leaf):
        leaf = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
        return jax.device_put(leaf, jax.memory.Space.Device)

    return jax.tree.map(take, stack)


def rematerialized(f: Callable[..., Any], remat: str | None) -> Callable[..., Any]:
    """``f`` under ``jax.checkpoint`` with the policy ``REMAT[remat]``.

    Without it the backward pass would keep a copy of each layer's weights beside the stack.
    """
    return jax.checkpoint(f, policy=REMAT[remat]) if remat else f
