"""Which task a training sample is, and damage to the history it sees: both drawn for each sample by
itself, apart from their use.

At inference the history is what the model made, errors and all; in training it is clean. So it is
dropped in part, which makes one model of text, image and video to video, and damaged as generated
frames are: noise, blur, exposure and saturation (Helios, section 3.2, "Easy Anti-Drifting").

Everything here is of one sample, without a batch axis; ``jax.vmap`` does the rest.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.types import Array, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Probabilities of the three tests that are made one after another; a sample that passes none
    keeps its whole history.

    Attributes:
      text: of dropping everything, as at the start of a video made from text.
      image: else, of keeping the anchor and the newest frame only.
      video: else, of dropping the oldest 1, 10 or 19 frames (whole chunks before the first).
    """

    text: float = 0.4
    image: float = 0.1
    video: float = 0.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How the history is damaged.

    Attributes:
      clean: probability that noise, blur and exposure leave a sample alone.
      noise, blur, exposure: weights of the one that is used otherwise.
      noise_sigma: greatest noise level of the long, mid and newest frames; each level is uniform
        from 0.
      per_frame: whether every frame has a noise level of its own, or every segment.
      blur_scale: range of the factor by which frames are made smaller and large again.
      exposure_factor: range of the factor of the latents.
      saturation: whether frames' deviations from the mean of their channels are scaled as well.
      saturation_clean: probability, for each segment, that they are not.
      saturation_factor: range of that factor; below and above 1 are equally likely.
      anchor: whether the anchor, too, is given noise, blur and exposure; saturation always leaves
        it alone.
      segments: frames that share a factor: ``"reference"`` cuts the window into chunks, ``"roles"``
        into long, mid and newest.
    """

    clean: float = 0.1
    noise: float = 0.9
    blur: float = 0.1
    exposure: float = 0.0
    noise_sigma: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    per_frame: bool = True
    blur_scale: tuple[float, float] = (0.9, 1.0)
    exposure_factor: tuple[float, float] = (0.3, 1.7)
    saturation: bool = True
    saturation_clean: float = 0.1
    saturation_factor: tuple[float, float] = (0.3, 1.7)
    anchor: bool = True
    segments: Literal["reference", "roles"] = "reference"


class TaskDraws(NamedTuple):
    """``task``: 0 whole history, 1 text, 2 image, 3 video; ``cut``: chunks that are dropped beside
    the odd oldest frames.
    """

    task: Int[Array, ""]
    cut: Int[Array, ""]


class CorruptionDraws(NamedTuple):
    """All that is random about the damage of one sample; ``T`` frames are the window's and, last,
    the anchor.

    Attributes:
      mode: 0 clean, 1 noise, 2 blur, 3 exposure.
      sigma: noise level of each frame.
      noise: unit noise.
      scale: of each segment, by which it is made smaller.
      exposure, saturation: factor of each segment.
    """

    mode: Int[Array, ""]
    sigma: Float[Array, "T"]
    noise: Float[Array, "T H W C"]
    scale: Float[Array, "segments"]
    exposure: Float[Array, "segments"]
    saturation: Float[Array, "segments"]


class Segments(NamedTuple):
    """Static map of the window's frames and the anchor.

    Attributes:
      segment: of each frame; the anchor's is the last.
      window: frames of one number are left alone where all of them are zero.
      role: 0 long, 1 mid, 2 newest or anchor: whose greatest noise level holds.
    """

    segment: tuple[int, ...]
    window: tuple[int, ...]
    role: tuple[int, ...]


def draw_task(key: PRNGKeyArray, config: TaskConfig, window: int, chunk: int) -> TaskDraws:
    """Draw the task of a sample with ``window`` frames of history and ``chunk`` frames to make."""
    first, second, third, cut = jax.random.uniform(key, (4,))
    task = jnp.where(
        first < config.text,
        1,
        jnp.where(second < config.image, 2, jnp.where(third < config.video, 3, 0)),
    )
    return TaskDraws(task, jnp.floor(cut * (window // chunk + 1)).astype(jnp.int32))


def apply_task(
    history: Float[Array, "T H W C"], anchor: Float[Array, "1 H W C"], draws: TaskDraws, chunk: int
) -> tuple[Float[Array, "T H W C"], Float[Array, "1 H W C"]]:
    """Zero what the task does not show."""
    window = history.shape[0]
    first_kept = jnp.stack([0, window, window - 1, window % chunk + chunk * draws.cut])[draws.task]
    kept = jnp.arange(window) >= first_kept
    return jnp.where(kept[:, None, None, None], history, 0.0), jnp.where(
        draws.task == 1, 0.0, anchor
    )


def segments(
    kind: Literal["reference", "roles"], sizes: tuple[int, int, int], chunk: int
) -> Segments:
    """The static map of a window of ``sizes`` (long, mid, newest) frames."""
    window, (long, mid, newest) = sum(sizes), sizes
    # The oldest frames that fill no chunk, then the chunks: what a task drops, and what a video
    # that has just begun lacks, is whole parts of these.
    whole = window // chunk
    chunks = (0,) * (window % chunk) + tuple(1 + frame // chunk for frame in range(whole * chunk))
    if kind == "roles":
        role = (0,) * long + (1,) * mid + (2,) * newest
        return Segments((*role, 3), (*chunks, whole + 1), (*role, 2))
    # The last chunk is cut after as many frames as there are mid ones. What comes before the cut
    # takes the long frames' noise level and what comes after it the mid ones', whatever they are to
    # the model.
    late = window - chunk + mid
    return Segments(
        (*(number + (frame >= late) for frame, number in enumerate(chunks)), whole + 2),
        (*chunks, whole + 1),
        (*(int(frame >= late) for frame in range(window)), 2),
    )


def draw_corruption(
    key: PRNGKeyArray, config: CorruptionConfig, parts: Segments, shape: tuple[int, int, int]
) -> CorruptionDraws:
    """Draw the damage of one sample; ``shape`` (H, W, C) is that of a frame."""
    mode, sigma, noise, scale, exposure, saturation, clean, side = jax.random.split(key, 8)
    count, T = max(parts.segment) + 1, len(parts.segment)
    weights = np.array([config.noise, config.blur, config.exposure])
    chances = np.concatenate([[config.clean], (1 - config.clean) * weights / weights.sum()])
    segment, greatest = (
        np.array(parts.segment),
        np.array([config.noise_sigma[role] for role in parts.role], np.float32),
    )
    levels = jax.random.uniform(sigma, (T,))
    low, high = config.saturation_factor
    factor = jnp.where(
        jax.random.bernoulli(side, 0.5, (count,)),
        jax.random.uniform(saturation, (count,), minval=low, maxval=1.0),
        jax.random.uniform(saturation, (count,), minval=1.0, maxval=high),
    )
    kept = (
        jax.random.bernoulli(clean, config.saturation_clean, (count,))
        | (not config.saturation)
        | (np.arange(count) == count - 1)
    )
    return CorruptionDraws(
        mode=jnp.searchsorted(
            jnp.asarray(np.cumsum(chances)[:-1], jnp.float32),
            jax.random.uniform(mode),
            side="right",
        ).astype(jnp.int32),
        sigma=(levels if config.per_frame else levels[:count][segment]) * greatest,
        noise=jax.random.normal(noise, (T, *shape)),
        scale=jax.random.uniform(
            scale, (count,), minval=config.blur_scale[0], maxval=config.blur_scale[1]
        ),
        exposure=jax.random.uniform(
            exposure, (count,), minval=config.exposure_factor[0], maxval=config.exposure_factor[1]
        ),
        saturation=jnp.where(kept, 1.0, factor),
    )


def apply_corruption(
    history: Float[Array, "T_window H W C"],
    anchor: Float[Array, "1 H W C"],
    draws: CorruptionDraws,
    config: CorruptionConfig,
    parts: Segments,
) -> tuple[Float[Array, "T_window H W C"], Float[Array, "1 H W C"]]:
    """Damage the history as drawn: ``(1 - sigma) x + sigma noise``, blur, or ``factor x``; then ``m
    + factor (x - m)`` with the channels' mean m.

    Frames that are not there stay so: those of a window that is all zero. Zero frames beside others
      are given noise like them.
    """
    frames = jnp.concatenate([history, anchor])
    segment, window = np.array(parts.segment), np.array(parts.window)
    used = jnp.any(frames != 0, axis=(1, 2, 3))
    there = (
        jax.ops.segment_max(used.astype(jnp.int32), window, num_segments=int(window.max()) + 1)[
            window
        ]
        > 0
    )
    if not config.anchor:
        there = there.at[-1].set(False)
    column = lambda values: values[:, None, None, None]
    sigma = column(draws.sigma)
    damaged = jnp.stack(
        [
            frames,
            (1 - sigma) * frames + sigma * draws.noise,
            _blur(frames, draws.scale[segment], config.blur_scale),
            column(draws.exposure[segment]) * frames,
        ]
    )[draws.mode]
    frames = jnp.where(column(there), damaged, frames)
    mean = frames.mean(-1, keepdims=True)
    factor = column(draws.saturation[segment])
    frames = jnp.where(factor == 1, frames, mean + factor * (frames - mean))
    return frames[:-1], frames[-1:]


def _blur(
    frames: Float[Array, "T H W C"], scale: Float[Array, "T"], bounds: tuple[float, float]
) -> Float[Array, "T H W C"]:
    """Each frame resized to ``round(scale H) x round(scale W)``, bilinear with antialiasing, and
    back.
    """
    for axis, name in ((1, "tij,tjwc->tiwc"), (2, "tij,thjc->thic")):
        size = frames.shape[axis]
        sizes, table = _resize_table(size, bounds)
        # Halves are rounded to even, as Python's round does.
        which = jnp.clip(jnp.round(scale * size).astype(jnp.int32), 1) - sizes[0]
        frames = jnp.einsum(name, jnp.asarray(table)[which], frames)
    return frames


@functools.lru_cache
def _resize_table(
    size: int, bounds: tuple[float, float]
) -> tuple[range, Float[np.ndarray, "sizes size size"]]:
    """All sizes that a scale within ``bounds`` can give, and the matrices that take ``size`` cells
    to as many and back.
    """
    sizes = range(max(round(bounds[0] * size), 1), max(round(bounds[1] * size), 1) + 1)
    return sizes, np.stack(
        [_resize_matrix(small, size) @ _resize_matrix(size, small) for small in sizes]
    ).astype(np.float32)


def _resize_matrix(size: int, new: int) -> Float[np.ndarray, "new size"]:
    """Weights of ``size`` cells in ``new`` ones: a triangle around each new cell's centre, as wide
    as the coarser of the two grids needs.
    """
    centres = (np.arange(new) + 0.5) * size / new - 0.5
    weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(size)) / max(size / new, 1), 0)
    return weights / weights.sum(1, keepdims=True)
