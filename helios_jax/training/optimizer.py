"""The optimiser: gradients clipped by their global norm, then AdamW or Muon, under a schedule of
the learning rate.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from helios_jax.fields import Checked, ConfigError, Natural, NonNegative
from helios_jax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """AdamW or Muon, and the learning rate.

    Attributes:
      method: ``"adamw"``; or ``"muon"``, which moves matrices and convolutions along the orthogonal
        factor of their momentum, by the root mean square that AdamW's steps have (Liu et al. 2025,
        section 2.2), and all else as ``"adamw"`` does, both with Nesterov's momentum. It is for
        what is trained from nothing.
      learning_rate: at its greatest.
      schedule: ``"constant"`` ignores ``warmup_steps``; ``"constant_with_warmup"`` and ``"cosine"``
        rise linearly from 0 over as many steps, and ``"cosine"`` then falls to 0.
      warmup_steps: of the rise.
      decay_steps: step at which ``"cosine"`` reaches 0.
      b1, b2, eps: AdamW's.
      weight_decay: of all leaves, biases too.
      clip_norm: greatest norm of a gradient; 0 leaves gradients as they are.
    """

    section = "optimizer"

    method: Literal["adamw", "muon"] = "adamw"
    learning_rate: NonNegative = 1e-4
    schedule: Literal["constant", "constant_with_warmup", "cosine"] = "constant"
    warmup_steps: Natural = 0
    decay_steps: Natural = 0
    b1: NonNegative = 0.9
    b2: NonNegative = 0.999
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-4
    clip_norm: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.b1, self.b2) >= 1:
            raise ConfigError(
                f"optimizer.b1={self.b1} and optimizer.b2={self.b2} must be less than 1"
            )
        if self.schedule == "cosine" and self.decay_steps <= self.warmup_steps:
            raise ConfigError(
                f"optimizer.decay_steps={self.decay_steps} must be more than "
                f"optimizer.warmup_steps={self.warmup_steps} for schedule='cosine'"
            )


def learning_rate(config: OptimizerConfig) -> Callable[[Any], Float[Array, ""]]:
    """The learning rate as a function of the number of steps taken before this one."""
    warmup = 0 if config.schedule == "constant" else config.warmup_steps

    def rate(steps: Int[Array, ""] | int) -> Float[Array, ""]:
        steps = jnp.asarray(steps, jnp.float32)
        factor = jnp.minimum(steps / warmup, 1.0) if warmup else jnp.ones_like(steps)
        if config.schedule == "cosine":
            progress = jnp.clip((steps - warmup) / (config.decay_steps - warmup), 0.0, 1.0)
            factor = factor * 0.5 * (1 + jnp.cos(math.pi * progress))
        return config.learning_rate * factor

    return rate


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW, ``p <- p - lr (m / (sqrt(v) + eps) + weight_decay p)`` with bias-corrected moments, or
    Muon.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    transform = optax.chain(clip, METHODS[config.method](config))

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, Any]:
        # optax raises a float to the power of its integer step.
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params)

    return optax.GradientTransformation(transform.init, update)


def _adamw(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.b1:
        return optax.adamw(
            learning_rate(config),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    # The first moment is the gradient then, and is not kept.
    return optax.chain(
        optax.scale_by_rms(config.b2, config.eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(learning_rate(config)),
    )


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    return muon(
        learning_rate(config),
        eps=config.eps,
        weight_decay=config.weight_decay,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )


METHODS = {"adamw": _adamw, "muon": _muon}


def matrices(params: Any) -> Any:
    """For each leaf the axes of a matrix's rows and of its columns, the other axes counting
    matrices; None for a leaf that is no matrix.
    """

    def axes(
        path: tuple[jax.tree_util.DictKey, ...], leaf: Array | jax.ShapeDtypeStruct
    ) -> MuonDimensionNumbers | None:
        *module, name = (key.key for key in path)
        if name != "kernel":
            return None
        layers = "blocks" in module
        joined = module[-1] in ("qkv", "kv", "time_proj")
        if not (layers or joined):
            inputs = leaf.ndim - 1
        else:
            inputs = 2 if module[-1] == "out" else 1
        rows = tuple(range(layers, layers + inputs))
        columns = tuple(range(layers + inputs + joined, leaf.ndim))
        return MuonDimensionNumbers(rows, columns)

    return jax.tree_util.tree_map_with_path(axes, params)
