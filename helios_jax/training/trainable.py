"""What trains and what is frozen: one tree of parameters becomes two, and
:func:`~helios_jax.models.lora.combine` makes them one again.
"""

import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from helios_jax.config import ConfigError
from helios_jax.models.lora import adaptable, combine, init_adapters
from helios_jax.training.config import TrainableConfig
from helios_jax.types import Params, PRNGKeyArray


def init_trainable(params: Params, config: TrainableConfig, key: PRNGKeyArray) -> Params:
    """What trains, in float32: new adapters, and the leaves that train in full.

    Pure; may be traced.

    Args:
      params: of the component.
      config: which of them train.
      key: of the adapters.

    Raises:
      ConfigError: if an expression matches nothing, or a kernel would train in both ways.
    """
    flat = flatten_dict(params, sep="/")
    full = _full(params, config)
    leaves = {path: jnp.array(flat[path], jnp.float32) for path in full}
    trainable = unflatten_dict(leaves, sep="/")
    if not config.rank:
        return trainable
    try:
        modules = adaptable(params, config.lora, config.lora_exclude)
    except ValueError as error:
        raise ConfigError(f"trainable.lora: {error}") from error
    if both := [module for module in modules if f"{module}/kernel" in full]:
        raise ConfigError(
            f"{', '.join(both)} would train in full and have an adapter: take them out of "
            "trainable.lora or of trainable.full"
        )
    return combine(trainable, init_adapters(key, params, modules, config.rank))


def frozen(params: Params, config: TrainableConfig) -> Params:
    """The leaves that do not train, as they are."""
    full = set(_full(params, config))
    flat = flatten_dict(params, sep="/")
    leaves = {path: leaf for path, leaf in flat.items() if path not in full}
    return unflatten_dict(leaves, sep="/")


def _full(params: Params, config: TrainableConfig) -> list[str]:
    """Paths of the leaves that train in full."""
    paths = list(flatten_dict(params, sep="/"))
    full = [path for path in paths if config.full and re.fullmatch(config.full, path)]
    if config.full and not full:
        raise ConfigError(
            f"trainable.full={config.full!r} matches no parameter; there are {', '.join(paths)}"
        )
    return full


def count(tree: Params) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
