"""An exponential moving average of the weights that train, with a decay that warms up."""

import jax
import jax.numpy as jnp

from helios_jax.training.config import EMAConfig
from helios_jax.types import Array, Bool, Float, Int, Params


def decay(n: Int[Array, ""] | int, start: int, maximum: float) -> Float[Array, ""]:
    """The share of the average that the ``n``-th update keeps.

    With ``s = max(0, n - start - 1)``: 0 where ``s = 0``, so that the average is a copy of the
    weights until update ``start + 1``, and ``min((1 + s) / (10 + s), maximum)`` from then on.

    Args:
      n: number of this update, the first being 1.
      start: updates before the average begins; the one after them still copies.
      maximum: what the decay rises to.
    """
    s = jnp.maximum(jnp.asarray(n) - (start + 1), 0).astype(jnp.float32)
    return jnp.where(s > 0, jnp.minimum((1 + s) / (10 + s), maximum), 0.0)


def update(average: Params, weights: Params, d: Float[Array, ""]) -> Params:
    """``average - (1 - d) (average - weights)``, leaf by leaf; exactly ``weights`` where ``d`` is
    0, whatever the average held.

    Args:
      average: tree of float32 arrays.
      weights: the same tree, after the optimiser's step.
      d: from :func:`decay`.
    """

    def leaf(e: Array, p: Array) -> Array:
        return jnp.where(d > 0, e - (1 - d) * (e - p), p)

    return jax.tree.map(leaf, average, weights)


def follow(
    average: Params | None,
    weights: Params,
    n: Int[Array, ""],
    config: EMAConfig,
    moved: Bool[Array, ""],
) -> Params | None:
    """The average after the ``n``-th update, as it was where nothing ``moved``; None if None.

    Args:
      average: tree of float32 arrays, or None where a run keeps none.
      weights: the same tree, after the optimiser's step.
      n: number of this update, the first being 1.
      config: the decay.
      moved: whether the step was taken.
    """
    if average is None:
        return None
    updated = update(average, weights, decay(n, config.start, config.decay))
    return jax.tree.map(lambda new, old: jnp.where(moved, new, old), updated, average)
