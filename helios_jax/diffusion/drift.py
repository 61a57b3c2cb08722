"""Drift-detecting adaptive sampling (Helios, section 3.6): noise on the history of a video whose
statistics run away.

Long videos drift: colours and contrast creep from chunk to chunk, because each chunk continues the
errors of the one before it. The mean and the variance of every channel of a chunk are compared with
their running means over the chunks so far. Where they are far apart, the model is shown the chunk
with noise added, as histories were in training, and relies on it less.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.history import HistoryState
from helios_jax.fields import Checked, Finite, NonNegative, Share
from helios_jax.types import Array, Bool, Float, Int, Key

_DRIFT = np.uint32(2**32 - 1)
"""Stands where the keys of a chunk's noise have the index of a stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftControl(Checked):
    """When to corrupt the history, and how much. The defaults are the original implementation's,
    save those of the last two fields.

    Attributes:
      mean_decay, variance_decay: share of the past in the running statistics.
      mean_threshold, variance_threshold: distances, over the channels, beyond which a chunk has
        drifted; below 0 every chunk has.
      strength: weight of the noise that is added.
      when: "either": one distance beyond its threshold is enough, as in the paper; "both": both
        must be, as in the original implementation.
      corrupt: "history": only what the model sees of the chunk; "chunk": the chunk that is shown
        too, as in the original implementation.
    """

    section = "drift"

    mean_decay: Share = 0.9
    variance_decay: Share = 0.9
    mean_threshold: Finite = 0.15
    variance_threshold: Finite = 0.15
    strength: NonNegative = 0.1
    when: Literal["either", "both"] = "either"
    corrupt: Literal["history", "chunk"] = "history"


class DriftStatistics(NamedTuple):
    """Running mean and variance of each channel.

    Attributes:
      started: whether there has been a chunk.
    """

    mean: Float[Array, "B C"]
    variance: Float[Array, "B C"]
    started: Bool[Array, ""]


class DriftDecision(NamedTuple):
    """The decision on each video of a batch.

    Attributes:
      mean, variance: distance of the chunk's statistics from the running ones.
      corrupted: whether noise was added.
    """

    mean: Float[Array, "B"]
    variance: Float[Array, "B"]
    corrupted: Bool[Array, "B"]


def start_drift(batch: int, channels: int) -> DriftStatistics:
    """The statistics before the first chunk, which never drifts: they become its own."""
    zeros = jnp.zeros((batch, channels))
    return DriftStatistics(zeros, zeros, jnp.zeros((), bool))


def detect_drift(
    statistics: DriftStatistics, latents: Float[Array, "B T H W C"], control: DriftControl
) -> tuple[DriftStatistics, DriftDecision]:
    """Update the running statistics with a chunk, ``g <- rho g + (1 - rho) x``, then measure its
    distance ``|x - g|`` from them over the channels.

    The decision is made for each video by itself. The variance is the unbiased one.
    """

    def track(running, current, decay):
        running = jnp.where(statistics.started, decay * running + (1 - decay) * current, current)
        distance = jnp.linalg.norm(current - running, axis=-1)
        return running, jnp.where(statistics.started, distance, 0.0)

    mean, mean_drift = track(statistics.mean, latents.mean((1, 2, 3)), control.mean_decay)
    variance, variance_drift = track(
        statistics.variance, latents.var((1, 2, 3), ddof=1), control.variance_decay
    )
    combine = {"either": jnp.logical_or, "both": jnp.logical_and}[control.when]
    corrupted = combine(
        mean_drift > control.mean_threshold, variance_drift > control.variance_threshold
    )
    statistics = DriftStatistics(mean, variance, jnp.ones((), bool))
    return statistics, DriftDecision(mean_drift, variance_drift, corrupted)


def draw_drift_noise(
    keys: Key[Array, "B"], chunk: Int[Array, ""] | int, shape: tuple[int, int, int, int]
) -> Float[Array, "B T H W C"]:
    """Unit noise for a chunk of ``shape`` (T, H, W, C). A video's noise depends on its own key and
    the chunk only.
    """

    def draw(key):
        key = jax.random.fold_in(jax.random.fold_in(key, chunk), _DRIFT)
        return jax.random.normal(key, shape, jnp.float32)

    return jax.vmap(draw)(keys)


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
      noise: from :func:`draw_drift_noise`.
      shown: whether the chunk that is shown may be corrupted, where ``control`` says so; the
        original implementation spares the last one.
      control: static.

    Returns:
      The statistics and the history after the chunk, its latents as they are shown, and the
      decision.
    """
    statistics, decision = detect_drift(statistics, latents, control)
    corrupted = jnp.where(
        decision.corrupted[:, None, None, None, None], latents + control.strength * noise, latents
    )
    size = history.window.shape[1]
    older = history.window[:, : max(size - latents.shape[1], 0)]
    window = jnp.concatenate([older, corrupted], axis=1)[:, -size:]
    if control.corrupt == "chunk":
        latents = jnp.where(shown, corrupted, latents)
    return statistics, history._replace(window=window), latents, decision
