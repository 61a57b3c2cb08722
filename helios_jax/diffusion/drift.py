"""Drift-detecting adaptive sampling (Helios, section 3.6): noise on the history of a video whose
statistics run away.

Long videos drift: colours and contrast creep from chunk to chunk, since each continues what the one
before made of it. The mean and the variance of every channel of a chunk are compared with their
running means over the chunks so far. Where they are far apart, the model sees the chunk through
noise, as it saw histories in training, and trusts it less.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.history import HistoryState
from helios_jax.types import Array, Bool, Float, Int, Key

_CORRUPTION = np.uint32(2**32 - 1)
"""Takes the place of a stage's index in the keys of a chunk's noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftControl:
    """When to corrupt the history, and how much; the defaults are the reference's, save the last
    two.

    Attributes:
      mean_decay, variance_decay: share of the past in the running statistics.
      mean_threshold, variance_threshold: distances, over the channels, beyond which a chunk has
        drifted.
      strength: weight of the noise that is added.
      when: whether either distance is enough, as in the paper, or both must be exceeded, as in the
        reference.
      corrupt: what is corrupted: the model's memory of the chunk alone, or, as in the reference,
        the chunk that is shown too.
    """

    mean_decay: float = 0.9
    variance_decay: float = 0.9
    mean_threshold: float = 0.15
    variance_threshold: float = 0.15
    strength: float = 0.1
    when: Literal["either", "both"] = "either"
    corrupt: Literal["history", "chunk"] = "history"


class DriftStatistics(NamedTuple):
    """Running mean and variance of each channel, and whether there has been a chunk."""

    mean: Float[Array, "B C"]
    variance: Float[Array, "B C"]
    started: Bool[Array, ""]


class DriftDecision(NamedTuple):
    """For each video: how far the chunk's mean and variance are from the running ones, and whether
    it was corrupted.
    """

    mean: Float[Array, "B"]
    variance: Float[Array, "B"]
    corrupted: Bool[Array, "B"]


def start_drift(batch: int, channels: int) -> DriftStatistics:
    """The statistics before the first chunk, which becomes the running ones and never drifts."""
    return DriftStatistics(
        jnp.zeros((batch, channels)), jnp.zeros((batch, channels)), jnp.zeros((), bool)
    )


def detect_drift(
    statistics: DriftStatistics, latents: Float[Array, "B T H W C"], control: DriftControl
) -> tuple[DriftStatistics, DriftDecision]:
    """Take a chunk into the running statistics, ``g <- rho g + (1 - rho) x``, then measure its
    distance ``|x - g|`` from them over the channels.

    Each video is decided upon by itself. The variance is the unbiased one.
    """

    def track(running, current, decay):
        running = jnp.where(statistics.started, decay * running + (1 - decay) * current, current)
        return running, jnp.where(
            statistics.started, jnp.linalg.norm(current - running, axis=-1), 0.0
        )

    mean, mean_drift = track(statistics.mean, latents.mean((1, 2, 3)), control.mean_decay)
    variance, variance_drift = track(
        statistics.variance, latents.var((1, 2, 3), ddof=1), control.variance_decay
    )
    combine = {"either": jnp.logical_or, "both": jnp.logical_and}[control.when]
    corrupted = combine(
        mean_drift > control.mean_threshold, variance_drift > control.variance_threshold
    )
    return DriftStatistics(mean, variance, jnp.ones((), bool)), DriftDecision(
        mean_drift, variance_drift, corrupted
    )


def draw_corruption(
    keys: Key[Array, "B"], chunk: Int[Array, ""] | int, shape: tuple[int, int, int, int]
) -> Float[Array, "B T H W C"]:
    """Unit noise of a chunk of ``shape`` (T, H, W, C); a video's depends on its own key and the
    chunk only.
    """
    fold = jax.random.fold_in
    return jax.vmap(
        lambda key: jax.random.normal(fold(fold(key, chunk), _CORRUPTION), shape, jnp.float32)
    )(keys)


def control_drift(
    statistics: DriftStatistics,
    history: HistoryState,
    latents: Float[Array, "B T H W C"],
    noise: Float[Array, "B T H W C"],
    shown: Bool[Array, ""],
    control: DriftControl,
) -> tuple[DriftStatistics, HistoryState, Float[Array, "B T H W C"], DriftDecision]:
    """Corrupt a chunk that has drifted.

    Args:
      statistics: of the chunks before.
      history: after the chunk.
      latents: the chunk's.
      noise: from :func:`draw_corruption`.
      shown: whether the chunk that is shown may be corrupted, where ``control`` says so; the
        reference spares the last one.
      control: static.

    Returns:
      The statistics and the history after the chunk, its latents as they are shown, and the
      decision.
    """
    statistics, decision = detect_drift(statistics, latents, control)
    corrupted = jnp.where(
        decision.corrupted[:, None, None, None, None], latents + control.strength * noise, latents
    )
    window, T = history.ring.shape[1], latents.shape[1]
    ring = jnp.concatenate([history.ring[:, : max(window - T, 0)], corrupted], axis=1)[:, -window:]
    if control.corrupt == "chunk":
        latents = jnp.where(shown, corrupted, latents)
    return statistics, history._replace(ring=ring), latents, decision
