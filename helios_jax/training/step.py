"""One training step down the gradient of a loss: a pure function of the state, the frozen
parameters and a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from helios_jax.training import ema
from helios_jax.training.config import TrainConfig
from helios_jax.training.optimizer import make_optimizer
from helios_jax.training.trainable import init_trainable
from helios_jax.types import Array, Bool, Float, Int, Params

Loss = Callable[[Params, Params, Any], Float[Array, "items"]]
"""``(trainable, frozen, batch) -> losses``, of one objective."""


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      step: steps taken, skipped ones included.
      trainable: what trains, float32.
      optimizer: optax's state.
      ema: moving average of ``trainable``; None where there is none.
      skipped: steps without effect, because loss or gradient was not finite: in all, and in a row.
    """

    step: Int[Array, ""]
    trainable: Params
    optimizer: Any
    ema: Params | None
    skipped: Int[Array, "2"]


Step = Callable[[TrainState, Params, Any], tuple[TrainState, dict[str, Array]]]
"""``(state, frozen, batch) -> (state, metrics)``, to be jitted with the state donated."""


def init_state(config: TrainConfig, params: Params) -> TrainState:
    """The state before the first step of a run that starts from ``params``; pure, may be traced."""
    trainable = init_trainable(params, config.trainable, jax.random.key(config.seed))
    optimizer = make_optimizer(config.optimizer).init(trainable)
    return first_state(config, trainable, optimizer, trainable)


def first_state(
    config: TrainConfig, trainable: Params, optimizer: optax.OptState, averaged: Params
) -> TrainState:
    """The state at step 0; its moving average is a copy of ``averaged``."""
    average = jax.tree.map(jnp.copy, averaged) if config.ema.decay else None
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, trainable, optimizer, average, jnp.zeros(2, jnp.int32))


def gradient_norm(gradient: Params) -> Float[Array, ""]:
    """The length of a gradient, all leaves taken as one vector."""
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))


def descend(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    trainable: Params,
    state: optax.OptState,
    finite: Bool[Array, ""],
) -> tuple[Params, optax.OptState]:
    """What trains, and the optimiser's state, after a step; both as they were where the gradient is
    not ``finite``.
    """
    updates, after = optimizer.update(gradient, state, trainable)
    moved = optax.apply_updates(trainable, updates)
    return jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (moved, after), (trainable, state)
    )


def finish_step(
    state: TrainState,
    trainable: Params,
    optimizer: optax.OptState,
    average: Params | None,
    finite: Bool[Array, ""],
) -> tuple[TrainState, dict[str, Array]]:
    """Count a step, and whether it was skipped.

    Args:
      state: before the step.
      trainable, optimizer, average: what trains, the optimiser's state and the moving average after
        the step.
      finite: whether loss and gradient were; else the step counts as skipped.

    Returns:
      The state after the step, and the metrics ``skipped`` and ``skipped_in_a_row``.
    """
    skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
    metrics = {"skipped": skipped[0], "skipped_in_a_row": skipped[1]}
    return TrainState(state.step + 1, trainable, optimizer, average, skipped), metrics


def descend_on(make_loss: Callable[[TrainConfig], Loss]) -> Callable[[TrainConfig], Step]:
    """``config -> step`` down the gradient of a loss."""
    return lambda config: make_step(make_loss(config), config)


def make_step(loss: Loss, config: TrainConfig) -> Step:
    """A step down the gradient of a loss's mean.

    A step whose loss or gradient is not finite changes nothing but the counts.
    """
    optimizer = make_optimizer(config.optimizer)

    def value_and_grad(trainable, frozen, batch):
        # All items at once: one after another they would need as much memory, for a second
        # gradient, as they would save.
        def mean(trainable):
            losses = loss(trainable, frozen, batch)
            return losses.mean(), losses

        (_, losses), gradient = jax.value_and_grad(mean, has_aux=True)(trainable)
        return losses, gradient

    def accumulate(trainable, frozen, batch):
        # Part a takes samples a, a + accumulate, ...: each device cuts what it holds.
        def cut(x):
            return jnp.swapaxes(x.reshape(-1, config.accumulate, *x.shape[1:]), 0, 1)

        def add(total, part):
            return jax.tree.map(jnp.add, total, value_and_grad(trainable, frozen, part)), None

        parts = jax.tree.map(cut, batch)
        part = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(value_and_grad, trainable, frozen, part)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / config.accumulate, total)

    def step(state, frozen, batch):
        gradient_of = value_and_grad if config.accumulate == 1 else accumulate
        losses, gradient = gradient_of(state.trainable, frozen, batch)
        norm = gradient_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.all(jnp.isfinite(losses))
        trainable, optimizer_state = descend(
            optimizer, gradient, state.trainable, state.optimizer, finite
        )
        updates = state.step + 1 - state.skipped[0]
        average = ema.follow(state.ema, trainable, updates, config.ema, finite)
        after, counts = finish_step(state, trainable, optimizer_state, average, finite)
        metrics = {"loss": losses.mean(), "gradient_norm": norm, **counts}
        if losses.size > 1:
            metrics |= {f"loss_{item}": value for item, value in enumerate(losses)}
        return after, metrics

    return step
