"""Making records: clips through the VAE, captions through the text encoder, shard by shard.

A clip is cut into pieces of 33 frames, each encoded by itself, as the model will generate them.
What a record holds follows from the clip, its place in the list and the seed, so it does not matter
how many processes share the work, or how often it was interrupted.
"""

import csv
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from helios_jax import checkpoint, media
from helios_jax.checkpoint.files import read_digests
from helios_jax.checkpoint.params import random_params
from helios_jax.commands.world import caption as describe_scene
from helios_jax.commands.world import render, sample_scene
from helios_jax.config import HeliosConfig, VAEConfig, to_dict
from helios_jax.data.records import (
    INDEX,
    SKIPPED,
    DataError,
    Facts,
    Record,
    RecordError,
    has_shard,
    open_shard,
    read_skipped,
    write_facts,
)
from helios_jax.models.tokenizer import Tokenizer, clean_prompt, toy_tokenizer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.models.vae import VAE, encode_clip
from helios_jax.types import DTypeLike, Params

Pieces = Iterator[UInt8[np.ndarray, "F Y X 3"]]


class SkippedError(DataError):
    """An input that is left out, and not the end of the run.

    Attributes:
      kind: what its like are counted as.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class Job(NamedTuple):
    """A record to be made: where it comes from, and the function that makes it or raises what is
    wrong.
    """

    source: str
    make: Callable[[], Record]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How clips become records.

    Attributes:
      height, width: pixels.
      fps: frames per second; other rates are resampled.
      fit: what to do with other proportions, one of :data:`~helios_jax.media.FITS`.
      frames: of a piece.
      min_frames: clips with fewer are left out.
      max_sections: pieces of a clip that are used at most.
      dtype: that latents are stored in.
      text_dtype: that text features are stored in.
      posterior: whether latents are a sample of the VAE's posterior, as the released models were
        trained on, or its mode.
      seed: of that sample.
    """

    height: int
    width: int
    fps: int = 24
    fit: Literal["crop", "stretch", "pad"] = "crop"
    frames: int = 33
    min_frames: int = 99
    max_sections: int = 15
    dtype: Literal["float32", "bfloat16"] = "float32"
    text_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    posterior: Literal["sample", "mode"] = "sample"
    seed: int = 0

    def check(self, vae: VAEConfig) -> None:
        """Refuse sizes that a model with this VAE cannot have.

        Raises:
          DataError: naming the field.
        """
        side = 2 * vae.spatial_factor  # a patch is two latent cells wide
        if self.height < side or self.width < side or self.height % side or self.width % side:
            raise DataError(
                f"height={self.height} and width={self.width} must be multiples of {side}"
            )
        if self.frames < 1 or self.frames % vae.temporal_factor != 1 % vae.temporal_factor:
            raise DataError(f"frames={self.frames} of a piece must be 1 + {vae.temporal_factor} k")
        if self.min_frames < 1 or self.max_sections < 1 or self.fps < 1:
            raise DataError(
                f"min_frames={self.min_frames}, max_sections={self.max_sections} and fps={self.fps} must be at least 1"
            )


class Encoders(NamedTuple):
    """VAE and text encoder with their parameters, and digests that tell them from others."""

    vae: VAE
    vae_params: Params
    text_encoder: UMT5Encoder
    text_params: Params
    tokenizer: Tokenizer
    digests: dict[str, str]

    def facts(self, config: EncodeConfig) -> Facts:
        """What the records that they make have in common."""
        vae = self.vae.config
        return Facts(
            section_frames=1 + (config.frames - 1) // vae.temporal_factor,
            latent_channels=vae.z_dim,
            text_width=self.text_encoder.config.d_model,
            text_dtype=config.text_dtype,
            **self.digests,
        )


def load_encoders(path: str | os.PathLike, verify: bool = True) -> Encoders:
    """The encoders of a checkpoint directory.

    Raises:
      CheckpointError, TokenizerError: if they are not there, or damaged.
    """
    config, dtype = checkpoint.load_config(path), _compute_dtype()
    tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer"))
    text = checkpoint.load_params(path, "text_encoder", lambda leaf: dtype, verify=verify)
    vae = checkpoint.load_params(path, "vae", lambda leaf: jnp.float32, verify=verify)
    digests = {component: encoder_digest(path, component) for component in ("vae", "text_encoder")}
    return Encoders(
        VAE(config.vae), vae, UMT5Encoder(config.text_encoder, dtype), text, tokenizer, digests
    )


def random_encoders(config: HeliosConfig, seed: int = 0) -> Encoders:
    """Encoders with the random weights that sampling without a checkpoint has."""
    params, dtype = random_params(config, seed, _compute_dtype()), _compute_dtype()
    tokenizer = toy_tokenizer(config.text_encoder.vocab_size)
    digests = {
        component: f"random {seed} {_digest(to_dict(getattr(config, component)))}"
        for component in ("vae", "text_encoder")
    }
    text_encoder = UMT5Encoder(config.text_encoder, dtype)
    return Encoders(
        VAE(config.vae), params["vae"], text_encoder, params["text_encoder"], tokenizer, digests
    )


def encoder_digest(path: str | os.PathLike, component: str) -> str:
    """A digest of the ``"vae"`` or the ``"text_encoder"`` of a checkpoint directory, as
    :class:`~helios_jax.data.records.Facts` hold it.
    """
    files = {
        name: entry["sha256"]
        for name, entry in read_digests(Path(path)).items()
        if name.startswith(f"{component}/")
    }
    return _digest([to_dict(getattr(checkpoint.load_config(path), component)), files])


def read_captions(path: Path) -> list[tuple[Path, str]]:
    """The lines of a table: videos, found relative to it, and their captions.

    Args:
      path: a CSV file with a header, or JSON lines; the video's column is ``path`` or ``video``,
        the caption's ``caption``.

    Raises:
      DataError: naming the line that is no such thing.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise DataError(f"{path}: captions are read from .csv and .jsonl files")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = (
                list(csv.DictReader(file))
                if path.suffix.lower() == ".csv"
                else [json.loads(line) for line in file if line.strip()]
            )
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    clips = []
    for number, line in enumerate(lines, 1):
        video = (line.get("path") or line.get("video")) if isinstance(line, dict) else None
        if not isinstance(video, str) or "caption" not in line:
            raise DataError(f"{path}: record {number} has no path (or video) or no caption")
        clips.append(
            (path.parent / video, line["caption"] if isinstance(line["caption"], str) else "")
        )
    if not clips:
        raise DataError(f"{path} lists no videos")
    return clips


def video_jobs(
    clips: Sequence[tuple[Path, str]], encoders: Encoders, config: EncodeConfig
) -> list[Job]:
    """The records of video files."""

    def open_video(path: Path, caption: str) -> tuple[int, Pieces]:
        if not clean_prompt(caption):
            raise SkippedError("empty caption", "the caption is empty")
        if not path.is_file():
            raise SkippedError("missing file", f"{path}: no such file")
        least = max(config.min_frames, config.frames)
        options = dict(piece=config.frames, least=least, most=config.max_sections)
        return media.read_pieces(
            path, config.height, config.width, config.fps, config.fit, **options
        )

    def job(number: int, path: Path, caption: str) -> Job:
        return Job(
            str(path),
            lambda: encode_record(
                encoders, config, number, str(path), caption, lambda: open_video(path, caption)
            ),
        )

    return [job(number, *clip) for number, clip in enumerate(clips)]


def world_jobs(
    count: int,
    num_frames: int,
    split: str,
    encoders: Encoders,
    config: EncodeConfig,
    uncaptioned: float = 0.0,
    edition: int = 1,
) -> list[Job]:
    """The records of the first scenes of the procedural world, drawn from the seed; no file is
    written or read.

    A share of them, ``uncaptioned``, has the empty caption, with which guidance compares.
    """

    def open_scene(number: int) -> tuple[int, Pieces]:
        scene = sample_scene(config.seed, number, split, edition)
        size, starts = (
            (config.frames, config.height, config.width, config.fps),
            range(0, num_frames - config.frames + 1, config.frames),
        )
        return num_frames, (render(scene, *size, start=start) for start in starts)

    def job(number: int) -> Job:
        source = f"world/{split}/{config.seed}/{number}" + (f"/{edition}" if edition > 1 else "")
        silent = np.random.default_rng([config.seed, number, 3]).random() < uncaptioned
        caption = lambda: (
            ""
            if silent
            else describe_scene(sample_scene(config.seed, number, split, edition), number)
        )
        return Job(
            source,
            lambda: encode_record(
                encoders, config, number, source, caption(), lambda: open_scene(number)
            ),
        )

    return [job(number) for number in range(count)]


def encode_record(
    encoders: Encoders,
    config: EncodeConfig,
    number: int,
    source: str,
    caption: str,
    open_clip: Callable[[], tuple[int, Pieces]],
) -> Record:
    """One clip and its caption.

    Args:
      encoders, config: what it is encoded with.
      number: its place in the list, from which its randomness and its name come.
      source: where it comes from.
      caption: what it shows.
      open_clip: gives the number of its frames, and its pieces.

    Raises:
      SkippedError, MediaError: if there is nothing to be encoded.
    """
    text = encode_caption(encoders, caption).astype(config.text_dtype)
    num_frames, pieces = open_clip()
    frames, vae = encoders.facts(config).section_frames, encoders.vae.config
    shape = (
        1,
        frames,
        config.height // vae.spatial_factor,
        config.width // vae.spatial_factor,
        vae.z_dim,
    )
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    latents = []
    for section, piece in enumerate(pieces):  # the device encodes one while the next is decoded
        noise = (
            jnp.zeros(shape)
            if config.posterior == "mode"
            else jax.random.normal(jax.random.fold_in(key, section), shape)
        )
        latents.append(encode_clip(encoders.vae, encoders.vae_params, piece[None], noise))
    metadata = {"id": f"{number:08d}", "source": source, "frames": num_frames}
    return Record(
        np.concatenate(jax.device_get(latents)).astype(config.dtype), text, caption, metadata
    )


def encode_caption(encoders: Encoders, caption: str) -> np.ndarray:
    """Features [n, E] of a caption's tokens; a caption that is too long is cut."""
    ids, lengths = encoders.tokenizer(
        [clean_prompt(caption)], encoders.text_encoder.config.max_sequence_length
    )
    features, _ = encode_text(encoders.text_encoder, encoders.text_params, ids, lengths)
    return np.asarray(features)[0, : lengths[0]]


def write_records(
    folder: Path,
    facts: Facts,
    jobs: Sequence[Job],
    settings: Any,
    *,
    clips_per_shard: int,
    shard: int = 0,
    of: int = 1,
) -> str:
    """Make records and write them, in shards of ``clips_per_shard`` jobs; shards that are there are
    kept.

    Args:
      folder: of the dataset, founded here or gone on with.
      facts: of the dataset.
      jobs: all of them, whichever this process does.
      settings: whatever else determines the records, ready for JSON.
      clips_per_shard: jobs of a shard.
      shard, of: this process does every ``of``-th shard, from number ``shard`` on.

    Returns:
      What the folder holds now, in words.

    Raises:
      DataError: if the folder holds another dataset, or one made of other inputs.
    """
    if clips_per_shard < 1 or not 0 <= shard < of:
        raise DataError(
            f"clips_per_shard={clips_per_shard} must be at least 1, and shard={shard} one of 0 to {of - 1}"
        )
    write_facts(
        folder,
        dataclasses.replace(
            facts, inputs=_digest([settings, clips_per_shard, [job.source for job in jobs]])
        ),
    )
    shards = {
        f"clips-{i:05d}": jobs[i * clips_per_shard : (i + 1) * clips_per_shard]
        for i in range(-(-len(jobs) // clips_per_shard))
    }
    own = dict(list(shards.items())[shard::of])
    kept = {name: len(part) for name, part in own.items() if has_shard(folder, name)}
    with tqdm(
        total=sum(map(len, own.values())),
        initial=sum(kept.values()),
        unit="clip",
        desc="encoding",
        disable=None,
    ) as bar:
        if kept:
            bar.write(f"{len(kept)} of {len(own)} shards are finished and kept")
        for name, part in own.items():
            if name in kept:
                continue
            with open_shard(folder, name) as writer:
                for job in part:
                    try:
                        record = job.make()
                        facts.check(record)
                        writer.write(record)
                    except (SkippedError, RecordError, media.MediaError) as error:
                        writer.skip(job.source, _kind(error), str(error))
                        bar.set_postfix_str(f"{len(writer.skipped)} of this shard skipped")
                    bar.update()
    return summary(folder, len(shards))


def summary(folder: Path, shards: int) -> str:
    """How many records a folder holds, and what was left out and why, by its indices."""
    done = [path for path in folder.glob(f"*{INDEX}") if not path.name.endswith(SKIPPED)]
    records = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in done)
    kinds = Counter(line["kind"] for line in read_skipped(folder))
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    skipped = (
        f"; {kinds.total()} skipped ({told}), listed in {folder}/*{SKIPPED}"
        if kinds
        else "; none skipped"
    )
    return f"{folder}: {records} clips in {len(done)} of {shards} shards{skipped}"


def _kind(error: Exception) -> str:
    if isinstance(error, SkippedError):
        return error.kind
    kinds = {
        media.TooShortError: "too short",
        media.MediaError: "unreadable video",
        RecordError: "unusable record",
    }
    return next(kind for known, kind in kinds.items() if isinstance(error, known))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _compute_dtype() -> DTypeLike:
    """In which text is encoded: bfloat16 where there is an accelerator, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
