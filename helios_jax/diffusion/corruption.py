"""The task of a training sample and the corruption of its history, drawn apart from their use.

At inference the history is what the model made, with its errors; in training it is clean. So a part
of it is dropped, which makes one model serve text, image and video to video, and it is corrupted as
generated frames are: noise, blur, exposure and saturation (Helios, section 3.2, "Easy
Anti-Drifting").

Every function here takes one sample, without a batch axis; ``jax.vmap`` adds it.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.noise import mix
from helios_jax.fields import Checked, ConfigError, NonNegative, Positive, Share
from helios_jax.types import Array, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(Checked):
    """Probabilities of dropping a part of the history, tested one after another. A sample that
    passes no test keeps its whole history.

    Attributes:
      text: of dropping everything, as at the start of a video from text.
      image: otherwise, of keeping the anchor and the newest frame only.
      video: otherwise, of dropping the oldest 1, 10 or 19 frames, so that whole chunks remain.
    """

    section = "task"

    text: Share = 0.4
    image: Share = 0.1
    video: Share = 0.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig(Checked):
    """How the history is corrupted.

    Attributes:
      clean: probability that a sample gets none of noise, blur and exposure.
      noise, blur, exposure: relative weights of the one that it gets otherwise.
      noise_sigma: greatest noise level of the long, mid and newest frames; levels are uniform
        from 0.
      per_frame: whether every frame has a noise level of its own, or every segment.
      blur_scale: range of the factor by which frames are made smaller and then large again.
      exposure_factor: range of the factor by which latents are multiplied.
      saturation: whether deviations from the mean over channels are scaled as well.
      saturation_clean: probability, for each segment, that they are not.
      saturation_factor: range of that factor; factors below and above 1 are equally likely.
      anchor: whether the anchor gets noise, blur and exposure too; its saturation never changes.
      segments: the frames that share a factor. "reference" cuts the window into chunks, as the
        original implementation does; "roles" into long, mid and newest frames.
    """

    section = "corruption"

    clean: Share = 0.1
    noise: NonNegative = 0.9
    blur: NonNegative = 0.1
    exposure: NonNegative = 0.0
    noise_sigma: tuple[Share, Share, Share] = (1 / 3, 1 / 3, 1 / 3)
    per_frame: bool = True
    blur_scale: tuple[Positive, Positive] = (0.9, 1.0)
    exposure_factor: tuple[NonNegative, NonNegative] = (0.3, 1.7)
    saturation: bool = True
    saturation_clean: Share = 0.1
    saturation_factor: tuple[NonNegative, NonNegative] = (0.3, 1.7)
    anchor: bool = True
    segments: Literal["reference", "roles"] = "reference"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean < 1 and self.noise + self.blur + self.exposure == 0:
            raise ConfigError(
                "corruption.noise, blur and exposure are all 0: give one a weight, or set "
                "corruption.clean=1"
            )


class TaskDraws(NamedTuple):
    """The task of a sample.

    Attributes:
      task: 0 whole history, 1 text, 2 image, 3 video.
      cut: chunks that a video sample drops, beside the oldest frames that fill no chunk.
    """

    task: Int[Array, ""]
    cut: Int[Array, ""]


class CorruptionDraws(NamedTuple):
    """The random numbers of the corruption of one sample. Its ``T`` frames are those of the window
    and, last, the anchor.

    Attributes:
      mode: 0 clean, 1 noise, 2 blur, 3 exposure.
      sigma: noise level of each frame.
      noise: unit noise.
      scale: blur scale of each segment.
      exposure, saturation: factor of each segment.
    """

    mode: Int[Array, ""]
    sigma: Float[Array, "T"]
    noise: Float[Array, "T H W C"]
    scale: Float[Array, "segments"]
    exposure: Float[Array, "segments"]
    saturation: Float[Array, "segments"]


class Segments(NamedTuple):
    """The static grouping of the window's frames and, last, the anchor.

    Attributes:
      segment: number of each frame's segment.
      window: number of each frame's chunk; a chunk that is all zero is not corrupted.
      role: 0 long, 1 mid, 2 newest or anchor; it selects the greatest noise level.
    """

    segment: tuple[int, ...]
    window: tuple[int, ...]
    role: tuple[int, ...]


def draw_task(key: PRNGKeyArray, config: TaskConfig, window: int, chunk: int) -> TaskDraws:
    """Draw a sample's task, for ``window`` frames of history and chunks of ``chunk`` frames."""
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
    """Set to zero the frames that the task does not show."""
    window = history.shape[0]
    first_kept = jnp.stack([0, window, window - 1, window % chunk + chunk * draws.cut])[draws.task]
    kept = jnp.arange(window) >= first_kept
    history = jnp.where(kept[:, None, None, None], history, 0.0)
    return history, jnp.where(draws.task == 1, 0.0, anchor)


def segments(
    kind: Literal["reference", "roles"], sizes: tuple[int, int, int], chunk: int
) -> Segments:
    """The grouping of a window of ``sizes`` (long, mid, newest) frames."""
    long, mid, newest = sizes
    window = sum(sizes)
    # First the oldest frames, which fill no chunk, then the chunks. A task drops whole parts of
    # these, and a video that has just begun lacks whole parts.
    whole = window // chunk
    chunks = (0,) * (window % chunk) + tuple(1 + frame // chunk for frame in range(whole * chunk))
    if kind == "roles":
        role = (0,) * long + (1,) * mid + (2,) * newest
        return Segments((*role, 3), (*chunks, whole + 1), (*role, 2))
    # The original implementation cuts the last chunk after as many frames as there are mid ones.
    # Frames before the cut have the noise level of long frames and those after it that of mid
    # frames, whatever their role in the model.
    late = window - chunk + mid
    return Segments(
        (*(number + (frame >= late) for frame, number in enumerate(chunks)), whole + 2),
        (*chunks, whole + 1),
        (*(int(frame >= late) for frame in range(window)), 2),
    )


def draw_corruption(
    key: PRNGKeyArray, config: CorruptionConfig, parts: Segments, shape: tuple[int, int, int]
) -> CorruptionDraws:
    """Draw the corruption of one sample; ``shape`` (H, W, C) is that of a frame."""
    mode, sigma, noise, scale, exposure, saturation, clean, side = jax.random.split(key, 8)
    count = max(parts.segment) + 1
    T = len(parts.segment)
    weights = np.array([config.noise, config.blur, config.exposure])
    chances = np.concatenate([[config.clean], (1 - config.clean) * weights / weights.sum()])
    segment = np.array(parts.segment)
    greatest = np.array([config.noise_sigma[role] for role in parts.role], np.float32)
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
    """Corrupt the history as drawn: ``(1 - sigma) x + sigma noise``, blur, or ``factor x``; then
    ``m + factor (x - m)`` with m the mean over channels.

    Chunks that are all zero stay zero: the video has not reached them. Zero frames beside others in
    a chunk are given noise like these.
    """
    frames = jnp.concatenate([history, anchor])
    segment = np.array(parts.segment)
    window = np.array(parts.window)
    used = jnp.any(frames != 0, axis=(1, 2, 3)).astype(jnp.int32)
    there = jax.ops.segment_max(used, window, num_segments=int(window.max()) + 1)[window] > 0
    if not config.anchor:
        there = there.at[-1].set(False)
    corrupted = jnp.stack(
        [
            frames,
            mix(frames, draws.noise, _column(draws.sigma)),
            _blur(frames, draws.scale[segment], config.blur_scale),
            _column(draws.exposure[segment]) * frames,
        ]
    )[draws.mode]
    frames = jnp.where(_column(there), corrupted, frames)
    mean = frames.mean(-1, keepdims=True)
    factor = _column(draws.saturation[segment])
    frames = jnp.where(factor == 1, frames, mean + factor * (frames - mean))
    return frames[:-1], frames[-1:]


def _column(values: Array) -> Array:
    """A number for each frame [T], shaped to broadcast against frames [T H W C]."""
    return values[:, None, None, None]


def _blur(
    frames: Float[Array, "T H W C"], scale: Float[Array, "T"], bounds: tuple[float, float]
) -> Float[Array, "T H W C"]:
    """Each frame resized to ``round(scale H) x round(scale W)``, bilinear with antialiasing, and
    back.
    """
    for axis, product in ((1, "tij,tjwc->tiwc"), (2, "tij,thjc->thic")):
        size = frames.shape[axis]
        sizes, table = _resize_table(size, bounds)
        # jnp.round rounds halves to even, as Python's round does.
        index = jnp.clip(jnp.round(scale * size).astype(jnp.int32), 1) - sizes[0]
        frames = jnp.einsum(product, jnp.asarray(table)[index], frames)
    return frames


@functools.lru_cache
def _resize_table(
    size: int, bounds: tuple[float, float]
) -> tuple[range, Float[np.ndarray, "sizes size size"]]:
    """All sizes that a scale within ``bounds`` can give, and for each the matrix that resizes
    ``size`` cells to that many and back.
    """
    sizes = range(max(round(bounds[0] * size), 1), max(round(bounds[1] * size), 1) + 1)
    matrices = [_resize_matrix(small, size) @ _resize_matrix(size, small) for small in sizes]
    return sizes, np.stack(matrices).astype(np.float32)


def _resize_matrix(size: int, new: int) -> Float[np.ndarray, "new size"]:
    """The weights of ``size`` cells in each of ``new`` cells: a triangle around the centre of the
    new cell, as wide as the coarser of the two grids needs.
    """
    centres = (np.arange(new) + 0.5) * size / new - 0.5
    distances = np.abs(centres[:, None] - np.arange(size))
    weights = np.maximum(1 - distances / max(size / new, 1), 0)
    return weights / weights.sum(1, keepdims=True)
