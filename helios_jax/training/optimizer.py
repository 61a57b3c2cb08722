"""The optimiser: gradients clipped by their global norm, then AdamW or Muon, under a schedule of
the learning rate.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from helios_jax.config import ConfigError
from helios_jax.types import Array, Float, Int, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, or Muon, and the schedule.

    ``muon`` moves matrices and convolutions along the orthogonal factor of their momentum, by the
    root mean square that AdamW's steps have (Liu et al. 2025, section 2.2), and all else as
    ``adamw`` does, both with Nesterov's momentum; ``b1`` and ``b2`` are AdamW's. It is for what is
    trained from nothing.

    ``constant`` pays no heed to ``warmup_steps``; ``constant_with_warmup`` and ``cosine`` rise
    linearly from 0 over as many steps, and ``cosine`` then falls to 0 at step ``decay_steps``.
    ``clip_norm`` 0 leaves gradients as they are.
    """

    method: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    schedule: Literal["constant", "constant_with_warmup", "cosine"] = "constant"
    warmup_steps: int = 0
    decay_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.learning_rate < 0 or self.clip_norm < 0 or self.weight_decay < 0:
            raise ConfigError(
                "optimizer.learning_rate, optimizer.clip_norm and optimizer.weight_decay must not be negative"
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ConfigError(
                f"optimizer.b1={self.b1} and optimizer.b2={self.b2} must be at least 0 and less than 1"
            )
        if self.schedule == "cosine" and self.decay_steps <= self.warmup_steps:
            raise ConfigError(
                f"optimizer.decay_steps={self.decay_steps} must be more than optimizer.warmup_steps={self.warmup_steps} for schedule='cosine'"
            )


def make_schedule(config: OptimizerConfig) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """The learning rate as a function of the number of steps taken before this one."""
    warmup = 0 if config.schedule == "constant" else config.warmup_steps

    def learning_rate(steps: Int[Array, ""] | int) -> Float[Array, ""]:
        steps = jnp.asarray(steps, jnp.float32)
        factor = jnp.minimum(steps / warmup, 1.0) if warmup else jnp.ones_like(steps)
        if config.schedule == "cosine":
            progress = jnp.clip((steps - warmup) / (config.decay_steps - warmup), 0.0, 1.0)
            factor = factor * 0.5 * (1 + jnp.cos(math.pi * progress))
        return config.learning_rate * factor

    return learning_rate


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """``p <- p - lr (m / (sqrt(v) + eps) + weight_decay p)``, moments bias-corrected; every leaf
    decays, biases too. Or Muon.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    transform = optax.chain(clip, METHODS[config.method](config))

    def update(
        gradients: Params, state: optax.OptState, params: Params
    ) -> tuple[Params, optax.OptState]:
        with jax.numpy_dtype_promotion(
            "standard"
        ):  # optax raises a float to the power of its integer step
            return transform.update(gradients, state, params)

    return optax.GradientTransformation(transform.init, update)


def _adamw(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.b1:
        return optax.adamw(
            make_schedule(config),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    # The first moment is the gradient then, and is not kept.
    return optax.chain(
        optax.scale_by_rms(config.b2, config.eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    return muon(
        make_schedule(config),
        eps=config.eps,
        weight_decay=config.weight_decay,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )


METHODS = {"adamw": _adamw, "muon": _muon}


def matrices(params: Params) -> Params:
    """For each leaf the axes that are a matrix's rows and its columns, the others counting
    matrices; None for what is no matrix.
    """

    def axes(
        path: tuple[jax.tree_util.DictKey, ...], leaf: Array | jax.ShapeDtypeStruct
    ) -> MuonDimensionNumbers | None:
        *module, name = (key.key for key in path)
        if name != "kernel":
            return None
        layers, joins = "blocks" in module, module[-1] in ("qkv", "kv", "time_proj")
        inputs = leaf.ndim - 1 if not (layers or joins) else 2 if module[-1] == "out" else 1
        return MuonDimensionNumbers(
            tuple(range(layers, layers + inputs)), tuple(range(layers + inputs + joins, leaf.ndim))
        )

    return jax.tree_util.tree_map_with_path(axes, params)
