"""Have a judge read what a model of the procedural world makes of captions that are new to it.

  helios-jax evaluate
  helios-jax evaluate --checkpoint checkpoints/nano-base --parts text,image --prompts 16

Parts, each written as soon as it is done; a part that the result file has already is not made again
unless --overwrite is given:

  vae      reconstruction of clips of 33 frames; by itself it needs no more than a VAE
  text     videos from captions of held-out scenes
  image    the same, from their first frame
  video    the same, from their first 33 frames
  long     1449 frames: what changes from the first 15 % of them to the last, and how chunks join
  speed    seconds a chunk, of the transformer and of all

Exit status: 0 when the results are written, 2 when nothing can be done (one line on stderr says
why).
"""

import dataclasses
import datetime
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from helios_jax import nano
from helios_jax.commands.cli import UsageError, run_command
from helios_jax.commands.request_flags import define_request_flags, read_request_flags
from helios_jax.compile_cache import use_compile_cache
from helios_jax.evaluation.nano import CHUNK, PARTS, EvaluationConfig, machine
from helios_jax.evaluation.report import load_results, table
from helios_jax.locks import lock
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import request_fields
from helios_jax.world.scenes import EDITIONS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__, define_flags, evaluate, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    default = EvaluationConfig()
    flags.DEFINE_string(
        "checkpoint",
        str(nano.CHECKPOINT),
        "Checkpoint directory; by default the one that ships with the package.",
        flag_values=options,
    )
    flags.DEFINE_list("parts", list(PARTS), "What to evaluate.", flag_values=options)
    flags.DEFINE_integer(
        "prompts",
        default.prompts,
        "Scenes of every part but long and speed.",
        lower_bound=1,
        flag_values=options,
    )
    flags.DEFINE_integer(
        "frames",
        default.frames,
        "Frames of the videos of text and image.",
        lower_bound=CHUNK,
        flag_values=options,
    )
    flags.DEFINE_integer(
        "long",
        default.long_videos,
        "Videos of the part long.",
        lower_bound=1,
        flag_values=options,
    )
    flags.DEFINE_integer(
        "long_frames",
        default.long_frames,
        "Frames of each.",
        lower_bound=7 * CHUNK,  # so that 15 % are a chunk
        flag_values=options,
    )
    flags.DEFINE_integer(
        "batch", default.batch, "Videos made at once.", lower_bound=1, flag_values=options
    )
    _define_sampling(options)
    flags.DEFINE_integer(
        "seed", default.seed, "Of scenes and noise.", lower_bound=0, flag_values=options
    )
    flags.DEFINE_integer(
        "edition",
        default.edition,
        "Edition of the world: how large and how fast objects are.",
        lower_bound=1,
        upper_bound=len(EDITIONS),
        flag_values=options,
    )
    flags.DEFINE_string(
        "out",
        "nano",
        "Result files, without .json, .md and, of the part long, _long.svg.",
        flag_values=options,
    )
    flags.DEFINE_bool("overwrite", False, "Make every part anew.", flag_values=options)


def _define_sampling(options: flags.FlagValues) -> None:
    """How videos are made: by default as the checkpoint says."""
    names = [field.name for field in request_fields() if field.metadata["sampler"]]
    define_request_flags(options, only=names)


def evaluate(options: flags.FlagValues) -> None:
    """Evaluate every part that is not there yet; write the results."""
    if unknown := set(options.parts) - set(PARTS):
        raise UsageError(
            f"--parts: there is no {', '.join(sorted(unknown))}, only {', '.join(PARTS)}"
        )
    config = _read_config(options)
    use_compile_cache()
    if options.parts == ["vae"]:
        pipeline = HeliosPipeline.for_decoding(options.checkpoint)
    else:
        pipeline = HeliosPipeline.from_checkpoint(options.checkpoint)
    conditions = _conditions(options, config, pipeline)
    with lock(options.out, "the results"):
        results = load_results(Path(options.out), conditions, options.overwrite)
        results.conditions.update(_circumstances())
        for part in options.parts:
            if part not in results.parts:
                results.parts[part] = PARTS[part](pipeline, config)
                results.save()
        results.write_page()
    print("\n".join(table(results.parts)))


def _read_config(options: flags.FlagValues) -> EvaluationConfig:
    return EvaluationConfig(
        prompts=options.prompts,
        frames=options.frames,
        long_videos=options.long,
        long_frames=options.long_frames,
        batch=options.batch,
        sampling=read_request_flags(options),
        seed=options.seed,
        edition=options.edition,
    )


def _conditions(
    options: flags.FlagValues, config: EvaluationConfig, pipeline: HeliosPipeline
) -> dict[str, Any]:
    """What results depend on; those of other conditions are not gone on with."""
    return {
        "checkpoint": os.path.basename(os.path.normpath(options.checkpoint)),
        "request": dataclasses.asdict(config.request(pipeline).sample),
        "prompts": config.prompts,
        "frames": config.frames,
        "batch": config.batch,
        "seed": config.seed,
        "edition": config.edition,
    }


def _circumstances() -> dict[str, str]:
    """When, on what and with what the results are measured."""
    versions = {package: importlib.metadata.version(package) for package in ("jax", "numpy")}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    return {"date": date, "machine": machine(), **versions}


if __name__ == "__main__":
    raise SystemExit(main())
