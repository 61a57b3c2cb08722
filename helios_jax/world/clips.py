"""Batches of clips of the procedural world, as pixels: drawn when they are asked for, never twice
the same, and exactly resumable.

Which clips a step trains on follows from (seed, step) alone: scene ``step * batch_size + row`` of
the series ``seed``, from a frame and cut to a window that its own number draws.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from helios_jax.commands.world import render, sample_scene
from helios_jax.config import ConfigError
from helios_jax.data.batches import Batches, endless_batches
from helios_jax.types import Int
from helios_jax.world.scenes import EDITIONS

LATEST = 240
"""Clips begin before this frame of their scene."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Clips of the procedural world.

    Attributes:
      frames: of a clip that is trained on.
      window: rows and columns that are cut out of it.
      validation_frames: of a clip that is looked at, in whole frames and with objects such as
        training never shows.
      edition: of the world, see :data:`~helios_jax.world.scenes.EDITIONS`.
    """

    frames: int = 9
    window: tuple[int, int] = (64, 64)
    validation_frames: int = 33
    edition: int = 1

    def __post_init__(self):
        if self.frames % 4 != 1 or self.validation_frames % 4 != 1:
            raise ConfigError(
                f"clips.frames={self.frames} and clips.validation_frames={self.validation_frames} must be 1 + 4 k"
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
    *,
    height: int,
    width: int,
    batch_size: int,
    seed: int,
    split: Literal["train", "validation"] = "train",
    read_threads: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """The batches of a split, without end.

    Args:
      config: see there.
      height, width: pixels of the frames that are drawn.
      batch_size: clips of a batch, of all processes together.
      seed: of the scenes.
      split: ``"train"`` or ``"validation"``.
      read_threads: that draw ahead.
      process_index, process_count: which rows are this process's.

    Raises:
      ConfigError: if the window is larger than the frame.
      DataError: if a batch cannot be shared out.
    """
    if config.window[0] > height or config.window[1] > width:
        raise ConfigError(
            f"clips.window={config.window} is larger than the frames of {height}x{width} pixels"
        )
    scenes = "heldout" if split == "validation" else "train"

    def draw(number: int) -> UInt8[np.ndarray, "F Y X 3"]:
        rng = np.random.default_rng([seed, number, 2])
        start, scene = int(rng.integers(LATEST)), sample_scene(seed, number, scenes, config.edition)
        if split == "validation":
            return render(scene, config.validation_frames, height, width, start=start)
        top, left = (
            int(rng.integers(whole - part + 1))
            for whole, part in zip((height, width), config.window)
        )
        return render(scene, config.frames, height, width, start=start)[
            :, top : top + config.window[0], left : left + config.window[1]
        ]

    def make(numbers: list[int]) -> ClipBatch:
        return ClipBatch(
            np.stack([draw(number) for number in numbers]),
            np.asarray([(0, number) for number in numbers], np.uint32),
        )

    facts = [dataclasses.asdict(config), height, width, seed, split]
    options = dict(
        batch_size=batch_size,
        read_threads=read_threads,
        process_index=process_index,
        process_count=process_count,
    )
    return endless_batches(make, facts, "scenes of the procedural world without end", **options)
