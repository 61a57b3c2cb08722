"""Videos with captions to training records: latents and text features, in the order of the list, in
files that a run can be interrupted between.

Videos listed in a table, with the VAE and the text encoder of a checkpoint:

  python -m helios_jax.commands.encode --captions clips/captions.csv --checkpoint checkpoints/helios-base --out records/train

The table is a CSV file with the columns path (or video) and caption, or JSON lines with these keys;
paths are relative to it. A clip is brought to --height, --width and --fps, and cut into pieces of
33 frames, each encoded by itself; what is left at its end is dropped. A clip that cannot be used
(file missing or damaged, too short, no caption) is left out, counted, and listed with the reason in
records/train/*.skipped.jsonl.

Four processes, one on each GPU; started again after an interruption, the same commands go on where
they were:

  for i in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$i python -m helios_jax.commands.encode ... --shard=$i --of=4 & done; wait

Clips of the procedural world, without any file, and with random weights, to try things out:

  python -m helios_jax.commands.encode --world=64 --height=64 --width=128 --config=configs/tiny.py --out=records/world

Latents that the PyTorch implementation has encoded (neither a checkpoint nor PyTorch is needed):

  python -m helios_jax.commands.encode --torch_latents=latents/ --out=records/theirs

Exit status: 0 when this process's shards are written, 2 when nothing can be done (one line on
stderr says why).
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags

from helios_jax import checkpoint, media
from helios_jax.commands.legacy import run_script
from helios_jax.commands.world import EDITIONS, SPLITS
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import ConfigError, HeliosConfig, from_dict
from helios_jax.data.jobs import (
    EncodeConfig,
    Job,
    load_encoders,
    random_encoders,
    read_captions,
    video_jobs,
    world_jobs,
    write_records,
)
from helios_jax.data.records import DataError, Facts, RecordError
from helios_jax.data.torch_latents import facts_of, read_torch_latents
from helios_jax.models.tokenizer import TokenizerError

OUT = flags.DEFINE_string(
    "out", None, "Folder of the dataset; made, or gone on with.", required=True
)
CAPTIONS = flags.DEFINE_string("captions", None, "Table of videos and captions, .csv or .jsonl.")
WORLD = flags.DEFINE_integer("world", None, "Encode so many clips of the procedural world instead.")
WORLD_FRAMES = flags.DEFINE_integer("world_frames", 132, "Frames of each of them.")
WORLD_SPLIT = flags.DEFINE_enum(
    "world_split", "train", SPLITS, "Which scenes; those of heldout show what train never does."
)
WORLD_EDITION = flags.DEFINE_enum(
    "world_edition", "1", [str(edition) for edition in EDITIONS], "How large and fast things are."
)
WORLD_UNCAPTIONED = flags.DEFINE_float(
    "world_uncaptioned",
    0.0,
    "Share of them with an empty caption: what guidance leads away from.",
    lower_bound=0.0,
    upper_bound=1.0,
)
TORCH_LATENTS = flags.DEFINE_string(
    "torch_latents", None, "Convert a folder of the PyTorch implementation's .pt latents instead."
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint directory whose VAE, text encoder and tokenizer encode."
)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Without a checkpoint: a preset whose random weights encode."
)
VERIFY = flags.DEFINE_bool("verify", True, "Compare the checkpoint's files with their digests.")
HEIGHT = flags.DEFINE_integer("height", None, "Pixels; by default the checkpoint's own.")
WIDTH = flags.DEFINE_integer("width", None, "Pixels; by default the checkpoint's own.")
FPS = flags.DEFINE_integer(
    "fps", 24, "Frames per second; each instant shows the nearest frame of the file."
)
FIT = flags.DEFINE_enum(
    "fit",
    "crop",
    list(media.FITS),
    "Where proportions differ: "
    + "; ".join(f"{name}: {what}" for name, what in media.FITS.items()),
)
FRAMES = flags.DEFINE_integer("frames", 33, "Frames of a piece.")
MIN_FRAMES = flags.DEFINE_integer(
    "min_frames", 99, "Clips with fewer frames are left out; 99 are three pieces."
)
MAX_SECTIONS = flags.DEFINE_integer(
    "max_sections", 15, "Pieces of a clip at most; what follows them is dropped."
)
CLIPS_PER_SHARD = flags.DEFINE_integer(
    "clips_per_shard", 64, "Clips of a file; an interrupted run loses no more than these."
)
SHARD = flags.DEFINE_integer(
    "shard", 0, "Which part of the files this process makes, 0 to --of minus 1."
)
OF = flags.DEFINE_integer("of", 1, "How many processes share the work.")
DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "What latents are stored in; bfloat16 takes half the disk.",
)
TEXT_DTYPE = flags.DEFINE_enum(
    "text_dtype", "bfloat16", ["float32", "bfloat16"], "What text features are stored in."
)
POSTERIOR = flags.DEFINE_enum(
    "posterior",
    "sample",
    ["sample", "mode"],
    "Latents are a sample of the VAE's posterior, as for the released models, or its mode.",
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Of those samples, of the scenes of --world, and of random weights.", lower_bound=0
)


def main() -> None:
    """Encode as the flags say."""
    named = [flag.name for flag in (CAPTIONS, WORLD, TORCH_LATENTS) if flag.value is not None]
    if len(named) != 1:
        raise DataError("name what to encode: one of --captions, --world and --torch_latents")
    facts, jobs, settings = (
        torch_jobs(Path(TORCH_LATENTS.value)) if TORCH_LATENTS.value is not None else clip_jobs()
    )
    print(
        write_records(
            Path(OUT.value),
            facts,
            jobs,
            settings,
            clips_per_shard=CLIPS_PER_SHARD.value,
            shard=SHARD.value,
            of=OF.value,
        )
    )


def clip_jobs() -> tuple[Facts, list[Job], object]:
    """Videos, or scenes, with encoders that are loaded once everything else is known to be right."""
    if (CHECKPOINT.value is None) == (CONFIG.value is None):
        raise DataError(
            "name what to encode with: --checkpoint, or for random weights --config=configs/tiny.py"
        )
    model = (
        from_dict(HeliosConfig, CONFIG.value)
        if CHECKPOINT.value is None
        else checkpoint.load_config(CHECKPOINT.value)
    )
    config = EncodeConfig(
        height=HEIGHT.value or model.sample.height,
        width=WIDTH.value or model.sample.width,
        **{
            flag.name: flag.value
            for flag in (FPS, FIT, FRAMES, MIN_FRAMES, MAX_SECTIONS, DTYPE, TEXT_DTYPE, POSTERIOR, SEED)
        },
    )  # fmt: skip
    config.check(model.vae)
    clips = read_captions(Path(CAPTIONS.value)) if CAPTIONS.value is not None else None
    if clips is None and (WORLD.value < 1 or WORLD_FRAMES.value < FRAMES.value):
        raise DataError(
            f"--world={WORLD.value} must be at least 1, and --world_frames={WORLD_FRAMES.value} at least --frames={FRAMES.value}"
        )
    use_compile_cache()
    encoders = (
        random_encoders(model, SEED.value)
        if CHECKPOINT.value is None
        else load_encoders(CHECKPOINT.value, VERIFY.value)
    )
    if clips is None:
        edition = int(WORLD_EDITION.value)
        inputs = [WORLD_FRAMES.value, WORLD_UNCAPTIONED.value, *([edition] if edition > 1 else [])]
        jobs = world_jobs(
            WORLD.value,
            WORLD_FRAMES.value,
            WORLD_SPLIT.value,
            encoders,
            config,
            WORLD_UNCAPTIONED.value,
            edition,
        )
    else:
        jobs, inputs = video_jobs(clips, encoders, config), [caption for _, caption in clips]
    return encoders.facts(config), jobs, [dataclasses.asdict(config), inputs]


def torch_jobs(folder: Path) -> tuple[Facts, list[Job], object]:
    """The .pt files of a folder and of those in it."""
    files, dtype = sorted(folder.rglob("*.pt")), np.dtype(DTYPE.value)
    for file in files:
        try:
            facts = facts_of(read_torch_latents(file, dtype))
            return (
                facts,
                [
                    Job(
                        str(file.relative_to(folder)),
                        lambda file=file: read_torch_latents(file, dtype),
                    )
                    for file in files
                ],
                DTYPE.value,
            )
        except RecordError as error:
            last = error
    raise DataError(
        f"{folder} has no .pt files of latents" + (f"; the last: {last}" if files else "")
    )


if __name__ == "__main__":
    run_script(
        main,
        (
            DataError,
            ConfigError,
            TokenizerError,
            checkpoint.CheckpointError,
            media.MediaError,
            OSError,
        ),
    )
