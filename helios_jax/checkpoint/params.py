"""Which dtype each parameter runs in, and parameters where there is no checkpoint."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from helios_jax.checkpoint.layout import Slot, leaves
from helios_jax.checkpoint.names import component_slots
from helios_jax.config import HeliosConfig
from helios_jax.models.layer_stack import is_separate_leaf
from helios_jax.models.transformer import keeps_float32
from helios_jax.types import DTypeLike, Params

HOST_MEMORY = "pinned_host"
"""The kind of memory that an accelerator copies from by itself."""


def dtype_rules(dtype: DTypeLike, vae_dtype: DTypeLike) -> dict[str, Callable[[str], DTypeLike]]:
    """For each component, the dtype of the parameter at a path: ``dtype``, save what the
    transformer keeps in float32, and the VAE's own.
    """
    return {
        "transformer": lambda path: jnp.float32 if keeps_float32(path) else dtype,
        "vae": lambda path: vae_dtype,
        "text_encoder": lambda path: dtype,
    }


def abstract_params(
    config: HeliosConfig, dtype: DTypeLike, vae_dtype: DTypeLike = jnp.float32
) -> dict[str, Params]:
    """Shapes and dtypes of every parameter, by component; nothing is allocated."""
    return _make(
        config,
        dtype,
        vae_dtype,
        lambda slot, dtype, component: jax.ShapeDtypeStruct(slot.leaf_shape, dtype),
    )


def random_params(
    config: HeliosConfig,
    seed: int,
    dtype: DTypeLike,
    vae_dtype: DTypeLike = jnp.float32,
    separate_blocks: bool = False,
) -> dict[str, Params]:
    """Random parameters of every component: kernels that keep the variance of their input, scales
    of one, offsets of zero; the transformer's blocks stacked, or one array a layer.
    """
    rng = np.random.default_rng(seed)

    def values(slot: Slot) -> np.ndarray:
        kind = slot.path.rpartition("/")[2]
        if kind in ("scale", "gamma", "history_key_scale"):
            return np.ones(slot.leaf_shape, np.float32)
        if kind == "bias":
            return np.zeros(slot.leaf_shape, np.float32)
        fan_in = 1 if kind == "embedding" else np.prod(slot.shape[1:])
        return rng.standard_normal(slot.leaf_shape, np.float32) * np.float32(fan_in**-0.5)

    def draw(slot: Slot, dtype: DTypeLike, component: str) -> Any:
        drawn = values(slot)
        is_block = component == "transformer" and slot.path.startswith("blocks/")
        if separate_blocks and is_block:
            return tuple(jnp.asarray(layer, dtype) for layer in drawn)
        return jnp.asarray(drawn, dtype)

    return _make(config, dtype, vae_dtype, draw)


def host_memory() -> jax.sharding.Sharding:
    """Host memory beside the default device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0], memory_kind=HOST_MEMORY)


def blocks_in_host_memory(params: Params) -> Params:
    """Parameters of one or more transformers, abstract or not, with all blocks' in host memory,
    from where the model copies them layer by layer.
    """

    def move(path, leaf):
        if not any(getattr(key, "key", None) == "blocks" for key in path):
            return leaf
        if is_separate_leaf(leaf):
            return jax.device_put(np.stack([np.asarray(layer) for layer in leaf]), host_memory())
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host_memory())
        return jax.device_put(leaf, leaf.sharding.with_memory_kind(HOST_MEMORY))

    return jax.tree_util.tree_map_with_path(move, params, is_leaf=is_separate_leaf)


def _make(
    config: HeliosConfig, dtype: DTypeLike, vae_dtype: DTypeLike, leaf: Callable
) -> dict[str, Params]:
    """Every component's tree of ``leaf(slot, dtype, component)``, from the tables of names that
    checkpoints follow.
    """
    trees: dict[str, Params] = {}
    for component, rule in dtype_rules(dtype, vae_dtype).items():
        slots = leaves(component_slots(config, component)).values()
        flat = {slot.path: leaf(slot, rule(slot.path), component) for slot in slots}
        trees[component] = unflatten_dict(flat, sep="/")
    return trees
