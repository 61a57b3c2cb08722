"""Records of the procedural world: scenes are drawn and encoded, no file is written or read."""

import dataclasses

import numpy as np

from helios_jax.data.encoders import Encoders
from helios_jax.data.errors import DataError
from helios_jax.data.jobs import Clip, EncodeConfig, Job, encode_record
from helios_jax.data.records import Record
from helios_jax.world.captions import caption
from helios_jax.world.drawing import render
from helios_jax.world.scenes import sample_scene

MAX_CLIPS = 1_000_000
"""Of a dataset: all are listed before the first is drawn."""

_CAPTION = 3
"""Last word of the seed that draws which clips have no caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldClips:
    """Clips of the first scenes of a series; the series' seed is that of the encoding.

    Attributes:
      count: of clips.
      num_frames: of each.
      split: of :data:`~helios_jax.world.scenes.SPLITS`.
      uncaptioned: share of clips with the empty caption, which guidance compares with.
      edition: of :data:`~helios_jax.world.scenes.EDITIONS`.
    """

    count: int
    num_frames: int
    split: str = "train"
    uncaptioned: float = 0.0
    edition: int = 1

    def check(self, frames: int) -> None:
        """Refuse clips that have not one section.

        Args:
          frames: of a section.

        Raises:
          DataError: naming the fields.
        """
        if self.count > MAX_CLIPS:
            raise DataError(f"--world={self.count} must be at most {MAX_CLIPS:,}")
        if self.count < 1 or self.num_frames < frames:
            raise DataError(
                f"--world={self.count} must be at least 1, and --world_frames={self.num_frames} "
                f"at least --frames={frames}"
            )

    def settings(self) -> list[float]:
        """What determines the records beside their sources, for the digest of a dataset's inputs.

        The first edition is left out: datasets were made before there were editions.
        """
        later = [self.edition] if self.edition > 1 else []
        return [self.num_frames, self.uncaptioned, *later]


def world_jobs(clips: WorldClips, encoders: Encoders, config: EncodeConfig) -> list[Job]:
    """The records of scenes.

    Args:
      clips: which scenes.
      encoders, config: what they are encoded with, and how.
    """

    def job(number: int) -> Job:
        return Job(
            _source(clips, config.seed, number),
            lambda: _record(clips, encoders, config, number),
        )

    return [job(number) for number in range(clips.count)]


def _source(clips: WorldClips, seed: int, number: int) -> str:
    source = f"world/{clips.split}/{seed}/{number}"
    return source if clips.edition == 1 else f"{source}/{clips.edition}"


def _record(clips: WorldClips, encoders: Encoders, config: EncodeConfig, number: int) -> Record:
    scene = sample_scene(config.seed, number, clips.split, clips.edition)
    rng = np.random.default_rng([config.seed, number, _CAPTION])
    text = "" if rng.random() < clips.uncaptioned else caption(scene, number)

    def open_scene() -> Clip:
        starts = range(0, clips.num_frames - config.frames + 1, config.frames)
        size = (config.frames, config.height, config.width, config.fps)
        return Clip(clips.num_frames, (render(scene, *size, start=start) for start in starts))

    source = _source(clips, config.seed, number)
    return encode_record(encoders, config, number, source, text, open_scene)
