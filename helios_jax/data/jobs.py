"""Making records: clips through the VAE, captions through the text encoder, shard by shard.

A clip is cut into sections of 33 frames, each encoded by itself, as the model will generate them.
What a record holds follows from the clip, its place in the list and the seed, so it does not matter
how many processes share the work, or how often it was interrupted.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from helios_jax import media
from helios_jax.config import VAEConfig
from helios_jax.data.encoders import Encoders, encode_caption
from helios_jax.data.errors import DataError, RecordError, SkippedError
from helios_jax.data.info import DatasetInfo, json_digest, write_info
from helios_jax.data.records import Record
from helios_jax.data.shards import SKIPPED, has_shard, index_files, open_shard, read_skipped
from helios_jax.data.tables import ListedClip
from helios_jax.fields import Checked, Count, Natural
from helios_jax.locks import remove_stale_lock
from helios_jax.models.tokenizer import clean_prompt
from helios_jax.models.vae import encode_clip
from helios_jax.progress import Progress


class Clip(NamedTuple):
    """An opened clip: the number of its frames, and its sections."""

    num_frames: int
    sections: Iterator[UInt8[np.ndarray, "F Y X 3"]]


class Job(NamedTuple):
    """A record to be made.

    Attributes:
      source: where it comes from.
      make: makes it, or raises what is wrong with the source.
    """

    source: str
    make: Callable[[], Record]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig(Checked):
    """How clips become records.

    Attributes:
      height, width: pixels.
      fps: frames per second; other rates are resampled.
      fit: what to do with other proportions, one of :data:`~helios_jax.media.FITS`.
      frames: of a section.
      min_frames: clips with fewer are left out.
      max_sections: sections of a clip that are used at most.
      dtype: that latents are stored in.
      text_dtype: that text features are stored in.
      posterior: whether latents are a sample of the VAE's posterior, as the released models were
        trained on, or its mode.
      seed: of that sample.
    """

    height: Count
    width: Count
    fps: Count = 24
    fit: Literal["crop", "stretch", "pad"] = "crop"
    frames: Count = 33
    min_frames: Count = 99
    max_sections: Count = 15
    dtype: Literal["float32", "bfloat16"] = "float32"
    text_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    posterior: Literal["sample", "mode"] = "sample"
    seed: Natural = 0

    def check(self, vae: VAEConfig) -> None:
        """Refuse sizes that a model with this VAE cannot have.

        Raises:
          DataError: naming the field.
        """
        side = 2 * vae.spatial_factor  # a patch is two latent cells wide
        if self.height % side or self.width % side:
            raise DataError(
                f"height={self.height} and width={self.width} must be multiples of {side}"
            )
        if self.frames % vae.temporal_factor != 1 % vae.temporal_factor:
            raise DataError(
                f"frames={self.frames} of a section must be 1 + {vae.temporal_factor} k"
            )

    def info(self, encoders: Encoders) -> DatasetInfo:
        """What the records that the encoders make have in common."""
        return encoders.info(self.frames, self.text_dtype)


def video_jobs(clips: Sequence[ListedClip], encoders: Encoders, config: EncodeConfig) -> list[Job]:
    """The records of video files.

    Args:
      clips: files, captions and the parts that count.
      encoders, config: what they are encoded with, and how.
    """

    def job(number: int, clip: ListedClip) -> Job:
        def make() -> Record:
            def opened() -> Clip:
                return open_video(clip, config)

            return encode_record(encoders, config, number, clip.source, clip.caption, opened)

        return Job(clip.source, make)

    return [job(number, clip) for number, clip in enumerate(clips)]


def open_video(clip: ListedClip, config: EncodeConfig) -> Clip:
    """A video file with its caption.

    Raises:
      SkippedError: if the caption is empty or the file is missing.
      MediaError: if the video is damaged or too short.
    """
    if not clean_prompt(clip.caption):
        raise SkippedError("empty caption", "the caption is empty")
    try:
        found = clip.path.is_file()
    except OSError as error:  # a name that is too long, or a folder that cannot be read
        raise SkippedError("missing file", f"{str(clip.path)[:300]}: {error.strerror}") from error
    if not found:
        raise SkippedError("missing file", f"{clip.path}: no such file")
    num_frames, sections = media.read_pieces(
        clip.path,
        config.height,
        config.width,
        config.fps,
        config.fit,
        piece=config.frames,
        least=max(config.min_frames, config.frames),
        excerpt=clip.excerpt,
    )
    return Clip(num_frames, itertools.islice(sections, config.max_sections))


def encode_record(
    encoders: Encoders,
    config: EncodeConfig,
    number: int,
    source: str,
    caption: str,
    open_clip: Callable[[], Clip],
) -> Record:
    """One clip and its caption.

    Args:
      encoders, config: what it is encoded with, and how.
      number: its place in the list, from which its randomness and its name come.
      source: where it comes from.
      caption: what it shows.
      open_clip: opens it.

    Raises:
      SkippedError, MediaError: if the clip or its caption cannot be used.
    """
    text = encode_caption(encoders, caption).astype(config.text_dtype)
    clip = open_clip()
    vae = encoders.vae.config
    shape = (
        1,
        config.info(encoders).section_frames,
        config.height // vae.spatial_factor,
        config.width // vae.spatial_factor,
        vae.z_dim,
    )
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    latents = []
    for i, section in enumerate(clip.sections):  # the device encodes one, the next is decoded
        if config.posterior == "mode":
            noise = jnp.zeros(shape)
        else:
            noise = jax.random.normal(jax.random.fold_in(key, i), shape)
        latents.append(encode_clip(encoders.vae, encoders.vae_params, section[None], noise))
    stored = np.concatenate(jax.device_get(latents)).astype(config.dtype)
    metadata = {"id": f"{number:08d}", "source": source, "frames": clip.num_frames}
    return Record(stored, text, caption, metadata)


def write_records(
    folder: Path,
    info: DatasetInfo,
    jobs: Sequence[Job],
    settings: Any,
    *,
    clips_per_shard: int,
    shard: int = 0,
    of: int = 1,
) -> str:
    """Make records and write them in shards of ``clips_per_shard`` jobs.

    Finished shards are kept.

    Args:
      folder: of the dataset, begun here or gone on with.
      info: about the dataset.
      jobs: all of them, whichever this process does.
      settings: whatever else determines the records, ready for JSON.
      clips_per_shard: jobs of a shard.
      shard, of: this process does every ``of``-th shard, from number ``shard`` on.

    Returns:
      What the folder holds now, in words.

    Raises:
      DataError: if the folder holds another dataset, or one made of other inputs.
      LockedError: if another process makes the same shard at the same time.
    """
    if clips_per_shard < 1 or not 0 <= shard < of:
        raise DataError(
            f"clips_per_shard={clips_per_shard} must be at least 1, and shard={shard} one of 0 to "
            f"{of - 1}"
        )
    inputs = json_digest([settings, clips_per_shard, [job.source for job in jobs]])
    write_info(folder, dataclasses.replace(info, inputs=inputs))
    shards = {}
    for number, first in enumerate(range(0, len(jobs), clips_per_shard)):
        shards[f"clips-{number:05d}"] = jobs[first : first + clips_per_shard]
    own = dict(list(shards.items())[shard::of])
    kept = {name: len(part) for name, part in own.items() if has_shard(folder, name)}
    total = sum(map(len, own.values()))
    initial = sum(kept.values())
    with Progress("encoding", total=total, initial=initial, unit="clips") as progress:
        if kept:
            progress.say(f"{len(kept)} of {len(own)} shards are finished and kept")
        for name, part in own.items():
            if name in kept:
                remove_stale_lock(folder / name)
                continue
            if has_shard(folder, name):  # another process has made it meanwhile
                progress.update(len(part))
            else:
                _write_shard(folder, name, part, info, progress)
    return summary(folder, len(shards))


def summary(folder: Path, shards: int) -> str:
    """How many records a folder holds, and how many inputs were left out and why.

    Args:
      folder: of the dataset.
      shards: how many it will have when it is finished.
    """
    done = index_files(folder)
    records = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in done)
    kinds = Counter(line["kind"] for line in read_skipped(folder))
    skipped = "none skipped"
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        skipped = f"{kinds.total()} skipped ({counts}), listed in {folder}/*{SKIPPED}"
    return f"{folder}: {records} clips in {len(done)} of {shards} shards; {skipped}"


def _write_shard(
    folder: Path, name: str, jobs: Sequence[Job], info: DatasetInfo, progress: Progress
) -> None:
    with open_shard(folder, name) as writer:
        for job in jobs:
            try:
                record = job.make()
                info.check(record)
                writer.write(record)
            except (SkippedError, RecordError, media.MediaError) as error:
                writer.skip(job.source, _kind(error), str(error))
                progress.note(f"{len(writer.skipped)} of this shard skipped")
            progress.update()


def _kind(error: Exception) -> str:
    """What a skipped input is counted as."""
    if isinstance(error, SkippedError):
        return error.kind
    if isinstance(error, media.TooShortError):
        return "too short"
    return "unusable record" if isinstance(error, RecordError) else "unreadable video"
