"""Batches of clips of the procedural world, as pixels.

Clips are drawn when they are asked for, never twice the same, and exactly resumable. What a step
trains on follows from (seed, step) alone: row r shows scene ``step * batch_size + r`` of the series
``seed``, from a frame and cut to a window that its own number draws.
"""

import dataclasses
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from helios_jax.data.loading import Batches, LoaderOptions, endless_batches
from helios_jax.fields import Checked, ConfigError, Count, Range
from helios_jax.types import Int
from helios_jax.world.drawing import render
from helios_jax.world.scenes import EDITIONS, sample_scene

LATEST = 240
"""Clips begin before this frame of their scene."""
_WINDOW = 2
"""Last word of the seed that draws a clip's beginning and window."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig(Checked):
    """Clips of the procedural world.

    Attributes:
      frames: of a training clip.
      window: rows and columns that are cut out of it.
      validation_frames: of a validation clip, which is not cut and shows objects that training
        never shows.
      edition: of the world, see :data:`~helios_jax.world.scenes.EDITIONS`.
    """

    section = "clips"

    frames: Count = 9
    window: Annotated[tuple[int, int], Range(1)] = (64, 64)
    validation_frames: Count = 33
    edition: Count = 1

    def __post_init__(self):
        super().__post_init__()
        if self.frames % 4 != 1 or self.validation_frames % 4 != 1:
            raise ConfigError(
                f"clips.frames={self.frames} and clips.validation_frames="
                f"{self.validation_frames} must be 1 + 4 k"
            )
        if self.edition not in EDITIONS:
            raise ConfigError(
                f"clips.edition={self.edition}: known are {', '.join(map(str, EDITIONS))}"
            )


class ClipBatch(NamedTuple):
    """This process's rows of a batch, in numpy.

    Attributes:
      frames: the clips.
      sample: (0, number of the scene): what a sample's own randomness is derived from.
    """

    frames: UInt8[np.ndarray, "B F Y X 3"]
    sample: Int[np.ndarray, "B 2"]


def load_clips(
    config: ClipConfig,
    options: LoaderOptions,
    *,
    height: int,
    width: int,
    seed: int,
    split: Literal["train", "validation"] = "train",
) -> Batches[ClipBatch]:
    """The batches of a split, without end.

    Args:
      config: which clips.
      options: clips of a batch, threads, and which rows are this process's.
      height, width: pixels of the frames that are drawn.
      seed: of the scenes.
      split: ``"train"`` or ``"validation"``.

    Raises:
      ConfigError: if the window is larger than the frame.
    """
    if config.window[0] > height or config.window[1] > width:
        raise ConfigError(
            f"clips.window={config.window} is larger than the frames of {height}x{width} pixels"
        )
    draw = _draw_whole if split == "validation" else _draw_window

    def make(numbers: list[int]) -> ClipBatch:
        clips = [draw(config, height, width, seed, number) for number in numbers]
        samples = np.asarray([(0, number) for number in numbers], np.uint32)
        return ClipBatch(np.stack(clips), samples)

    determinants = [dataclasses.asdict(config), height, width, seed, split]
    description = "scenes of the procedural world without end"
    return endless_batches(make, determinants, description, options)


def _draw_whole(
    config: ClipConfig, height: int, width: int, seed: int, number: int
) -> UInt8[np.ndarray, "F Y X 3"]:
    """A validation clip."""
    start = int(np.random.default_rng([seed, number, _WINDOW]).integers(LATEST))
    scene = sample_scene(seed, number, "heldout", config.edition)
    return render(scene, config.validation_frames, height, width, start=start)


def _draw_window(
    config: ClipConfig, height: int, width: int, seed: int, number: int
) -> UInt8[np.ndarray, "F Y X 3"]:
    """A training clip."""
    rng = np.random.default_rng([seed, number, _WINDOW])
    start = int(rng.integers(LATEST))
    rows, columns = config.window
    top = int(rng.integers(height - rows + 1))
    left = int(rng.integers(width - columns + 1))
    scene = sample_scene(seed, number, "train", config.edition)
    clip = render(scene, config.frames, height, width, start=start)
    return clip[:, top : top + rows, left : left + columns]
