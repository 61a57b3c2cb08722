"""Batches of clips of the procedural world, as pixels: drawn when they are asked for, never twice the same, and exactly resumable.

Which clips a step trains on follows from (seed, step) alone: scene ``step * batch_size + row`` of the series ``seed``, from a frame and cut to a
window that its own number draws.
"""

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

import grain
import numpy as np
from jaxtyping import UInt8

from helios_jax.config import ConfigError
from helios_jax.data.pipeline import Batches, read_ahead
from helios_jax.data.world import render, sample_scene
from helios_jax.types import Int

LATEST = 240
"""Clips begin before this frame of their scene."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Clips of the procedural world.

    Attributes:
      frames: of a clip that is trained on.
      window: rows and columns that are cut out of it.
      validation_frames: of a clip that is looked at, in whole frames and with objects such as training never shows.
    """

    frames: int = 9
    window: tuple[int, int] = (64, 64)
    validation_frames: int = 33

    def __post_init__(self):
        if self.frames % 4 != 1 or self.validation_frames % 4 != 1:
            raise ConfigError(f"clips.frames={self.frames} and clips.validation_frames={self.validation_frames} must be 1 + 4 k")


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
      ConfigError: if the window is larger than the frame, or a batch cannot be shared out.
    """
    if config.window[0] > height or config.window[1] > width:
        raise ConfigError(f"clips.window={config.window} is larger than the frames of {height}x{width} pixels")
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(f"data.batch_size={batch_size} must be a multiple of the {process_count} process(es), at least one clip each")
    per_process = batch_size // process_count
    own = range(process_index * per_process, (process_index + 1) * per_process)
    steps = grain.MapDataset.source(Endless()).map(functools.partial(_draw, config, (height, width), seed, split, batch_size, own))
    facts = json.dumps([dataclasses.asdict(config), height, width, seed, split, batch_size])
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return Batches(read_ahead(steps, read_threads), fingerprint, "scenes of the procedural world without end")


class Endless(Sequence):
    """0, 1, 2 and so on."""

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> int:
        return step


def _draw(
    config: ClipConfig, size: tuple[int, int], seed: int, split: str, batch_size: int, own: Sequence[int], step: int
) -> tuple[ClipBatch, list[str]]:
    """This process's rows of a step, and, as of any pipeline, what could not be read: nothing."""
    numbers = [step * batch_size + row for row in own]
    clips = []
    for number in numbers:
        rng = np.random.default_rng([seed, number, 2])
        start = int(rng.integers(LATEST))
        if split == "validation":
            clips.append(render(sample_scene(seed, number, "heldout"), config.validation_frames, *size, start=start))
            continue
        top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(size, config.window))
        clip = render(sample_scene(seed, number), config.frames, *size, start=start)
        clips.append(clip[:, top : top + config.window[0], left : left + config.window[1]])
    return ClipBatch(np.stack(clips), np.asarray([(0, number) for number in numbers], np.uint32)), []
