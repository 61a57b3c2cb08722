"""Videos with captions to training records: latents and text features, in the order of the list.

Videos listed in a table, with the VAE and the text encoder of a checkpoint:

  helios-jax encode --captions clips.csv --checkpoint checkpoints/helios-base --out records/train

The list is a CSV file, JSON lines or a JSON list. Its columns are path (or video, file_name) and
caption (or text, cap, prompt): the data lists of the original implementation and the metadata.csv
or .jsonl of a Hugging Face folder are read as they are. cut, [first, end] in frames, and crop,
[left, right, top, bottom] in pixels, take a part of a video. Whatever else stands there is named in
a line. Paths are relative to the list.

A clip is brought to --height, --width and --fps, and cut into sections of 33 frames, each encoded
by itself; what is left at its end is dropped. A clip that cannot be used (file missing or damaged,
too short, no caption) is left out, counted, and listed with the reason in
records/train/*.skipped.jsonl.

Four processes, one on each GPU; started again after an interruption, the same commands go on where
they were:

  for i in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$i helios-jax encode ... --shard=$i --of=4 & done; wait

Clips of the procedural world, without any file, and with random weights, to try things out:

  helios-jax encode --world=64 --height=64 --width=128 --config=tiny --out=records/world

Latents that the PyTorch implementation has encoded (neither a checkpoint nor PyTorch is needed):

  helios-jax encode --torch_latents=latents/ --out=records/theirs

Records are written with array_record: pip install 'helios-jax[train]'. Exit status: 0 when this
process's shards are written, 2 when nothing can be done (one line on stderr says why).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from helios_jax import checkpoint, media
from helios_jax.commands.cli import define_config, run_command
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import HeliosConfig
from helios_jax.data.encoders import Encoders, load_encoders, random_encoders
from helios_jax.data.errors import DataError, import_extra
from helios_jax.data.info import DatasetInfo
from helios_jax.data.jobs import EncodeConfig, Job, video_jobs, write_records
from helios_jax.data.tables import read_captions
from helios_jax.data.torch_latents import torch_jobs
from helios_jax.fields import from_dict
from helios_jax.world.jobs import WorldClips, world_jobs
from helios_jax.world.scenes import EDITIONS, SPLITS

SOURCES = ("captions", "world", "torch_latents")
"""Flags that name what is encoded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__, define_flags, encode, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "out",
        None,
        "Folder of the dataset; made, or gone on with.",
        required=True,
        flag_values=options,
    )
    _define_sources(options)
    _define_encoders(options, argv)
    _define_clips(options)
    _define_storage(options)


def _define_sources(options: flags.FlagValues) -> None:
    """What is encoded."""
    flags.DEFINE_string(
        "captions",
        None,
        "List of videos and captions: .csv, .jsonl or .json.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "world",
        None,
        "Encode so many clips of the procedural world instead.",
        flag_values=options,
    )
    flags.DEFINE_integer("world_frames", 132, "Frames of each of them.", flag_values=options)
    flags.DEFINE_enum(
        "world_split",
        "train",
        SPLITS,
        "Which scenes; those of heldout show objects that train never shows.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "world_edition",
        "1",
        [str(edition) for edition in EDITIONS],
        "Edition of the world: how large and how fast objects are.",
        flag_values=options,
    )
    flags.DEFINE_float(
        "world_uncaptioned",
        0.0,
        "Share of them with an empty caption, which guidance compares with.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=options,
    )
    flags.DEFINE_string(
        "torch_latents",
        None,
        "Convert a folder of the PyTorch implementation's .pt latents instead.",
        flag_values=options,
    )


def _define_encoders(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """What encodes."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Checkpoint directory whose VAE, text encoder and tokenizer encode.",
        flag_values=options,
    )
    define_config(options, argv, "Without a checkpoint: a recipe whose random weights encode.")
    flags.DEFINE_bool(
        "verify",
        True,
        "Compare the checkpoint's files with their digests, and refuse NaN and infinite values in "
        "weights.",
        flag_values=options,
    )


def _define_clips(options: flags.FlagValues) -> None:
    """How clips are cut."""
    pixels = "Pixels; by default the checkpoint's own."
    flags.DEFINE_integer("height", None, pixels, flag_values=options)
    flags.DEFINE_integer("width", None, pixels, flag_values=options)
    flags.DEFINE_integer(
        "fps",
        24,
        "Frames per second; each instant shows the nearest frame of the file.",
        flag_values=options,
    )
    fits = "; ".join(f"{name}: {what}" for name, what in media.FITS.items())
    flags.DEFINE_enum(
        "fit",
        "crop",
        list(media.FITS),
        f"Where proportions differ: {fits}.",
        flag_values=options,
    )
    flags.DEFINE_integer("frames", 33, "Frames of a section.", flag_values=options)
    flags.DEFINE_integer(
        "min_frames",
        99,
        "Clips with fewer frames are left out; 99 are three sections.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "max_sections",
        15,
        "Sections of a clip at most; what follows them is dropped.",
        flag_values=options,
    )


def _define_storage(options: flags.FlagValues) -> None:
    """How records are stored, and which of them this process makes."""
    flags.DEFINE_integer(
        "clips_per_shard",
        64,
        "Clips of a file; an interrupted run loses no more than these.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "shard",
        0,
        "Which part of the files this process makes, 0 to --of minus 1.",
        flag_values=options,
    )
    flags.DEFINE_integer("of", 1, "How many processes share the work.", flag_values=options)
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16"],
        "Dtype that latents are stored in; bfloat16 takes half the disk.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "text_dtype",
        "bfloat16",
        ["float32", "bfloat16"],
        "Dtype that text features are stored in.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "posterior",
        "sample",
        ["sample", "mode"],
        "Latents are a sample of the VAE's posterior, as for the released models, or its mode.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Of those samples, of the scenes of --world, and of random weights.",
        lower_bound=0,
        flag_values=options,
    )


def encode(options: flags.FlagValues) -> None:
    """Encode as the flags say."""
    named = [name for name in SOURCES if options[name].value is not None]
    if len(named) != 1:
        raise DataError("name what to encode: one of --captions, --world and --torch_latents")
    if options.torch_latents is None and (options.checkpoint is None) == (options.config is None):
        raise DataError(
            "name what to encode with: --checkpoint, or for random weights --config=tiny"
        )
    import_extra("array_record")  # before anything heavy is loaded
    if options.torch_latents is not None:
        info, jobs = torch_jobs(Path(options.torch_latents), np.dtype(options.dtype))
        settings = options.dtype
    else:
        info, jobs, settings = _clip_jobs(options)
    summary = write_records(
        Path(options.out),
        info,
        jobs,
        settings,
        clips_per_shard=options.clips_per_shard,
        shard=options.shard,
        of=options.of,
    )
    print(summary)


def _clip_jobs(options: flags.FlagValues) -> tuple[DatasetInfo, list[Job], Any]:
    """Videos or scenes; the encoders are loaded once everything else is known to be right.

    Returns:
      The information about the dataset, its jobs, and whatever else determines the records.
    """
    if options.checkpoint is None:
        model = from_dict(HeliosConfig, options.config)
    else:
        model = checkpoint.load_config(options.checkpoint)
    config = EncodeConfig(
        height=options.height or model.sample.height,
        width=options.width or model.sample.width,
        fps=options.fps,
        fit=options.fit,
        frames=options.frames,
        min_frames=options.min_frames,
        max_sections=options.max_sections,
        dtype=options.dtype,
        text_dtype=options.text_dtype,
        posterior=options.posterior,
        seed=options.seed,
    )
    config.check(model.vae)
    if options.captions is not None:
        listed = read_captions(Path(options.captions))
        for note in listed.notes:
            print(note)
        encoders = _load_encoders(options, model)
        jobs = video_jobs(listed.clips, encoders, config)
        inputs: list[Any] = [clip.caption for clip in listed.clips]
    else:
        scenes = WorldClips(
            count=options.world,
            num_frames=options.world_frames,
            split=options.world_split,
            uncaptioned=options.world_uncaptioned,
            edition=int(options.world_edition),
        )
        scenes.check(config.frames)
        encoders = _load_encoders(options, model)
        jobs = world_jobs(scenes, encoders, config)
        inputs = scenes.settings()
    return config.info(encoders), jobs, [dataclasses.asdict(config), inputs]


def _load_encoders(options: flags.FlagValues, model: HeliosConfig) -> Encoders:
    """The checkpoint's encoders, or random ones of the recipe."""
    use_compile_cache()
    if options.checkpoint is None:
        return random_encoders(model, options.seed)
    return load_encoders(options.checkpoint, options.verify)


if __name__ == "__main__":
    raise SystemExit(main())
