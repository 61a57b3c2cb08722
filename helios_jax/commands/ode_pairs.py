"""Trajectories of a teacher, for a few-step student to begin on: its samples at the student's noise
levels and at the end of each stage.

  helios-jax ode-pairs --checkpoint checkpoints/helios-mid --prompt_file prompts.txt --out data/ode
  helios-jax train --config train/stage3_ode --config.checkpoint=checkpoints/helios-mid \\
      --config.data.train=data/ode

--world=400 takes captions of the procedural world in place of a file. Each prompt has a seed of its
own. The student's noise levels join the teacher's, so that its trajectory passes through them
exactly; the first section has those of an amplified first chunk. There is one file a prompt,
written whole: the same command goes on where it was stopped, and makes the same files on the same
machine, byte for byte. --shard=I --of=N shares the work.

Exit status: 0 when all files are there, 2 when the input cannot be used (one line on stderr says
why).
"""

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from helios_jax import checkpoint
from helios_jax.commands.cli import run_command
from helios_jax.compile_cache import use_compile_cache
from helios_jax.data.trajectories import SUFFIX, check_metadata, save_trajectory
from helios_jax.locks import only_writer
from helios_jax.progress import track
from helios_jax.readers import ReadError, read_text
from helios_jax.sampling.ode_pairs import make_trajectory
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.world.captions import caption
from helios_jax.world.scenes import sample_scene
from helios_jax.writers import writing


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__ or "", define_flags, write_trajectories, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "The teacher: a checkpoint with a pyramid.",
        required=True,
        flag_values=options,
    )
    flags.DEFINE_string(
        "prompt_file", None, "Text file with one prompt a line.", flag_values=options
    )
    flags.DEFINE_integer(
        "world",
        None,
        "Take so many captions of the procedural world instead.",
        lower_bound=1,
        upper_bound=100_000,
        flag_values=options,
    )
    flags.DEFINE_string(
        "out",
        None,
        "Folder of the files; made, or gone on with.",
        required=True,
        flag_values=options,
    )
    flags.DEFINE_integer("sections", 5, "Chunks of each video.", lower_bound=1, flag_values=options)
    flags.DEFINE_list(
        "student_steps",
        ["2", "2", "2"],
        "The student's steps of each stage, coarsest first.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Each video's own seed follows from this one and its number.",
        lower_bound=0,
        upper_bound=2**31 - 1,
        flag_values=options,
    )
    flags.DEFINE_integer(
        "shard",
        0,
        "Which part of the prompts this process takes, 0 to --of minus 1.",
        lower_bound=0,
        flag_values=options,
    )
    flags.DEFINE_integer(
        "of", 1, "How many processes share the work.", lower_bound=1, flag_values=options
    )


def write_trajectories(options: flags.FlagValues) -> None:
    """Make the files that are not there yet."""
    use_compile_cache()
    prompts = read_prompts(options)
    pipeline = HeliosPipeline.from_checkpoint(options.checkpoint)
    stages = pipeline.config.scheduler.stages
    student = read_steps(options.student_steps, stages)
    # The student's schedule, whatever the teacher's own.
    request = make_request(pipeline.config, num_frames=1, time_shift_type="linear")
    out = Path(options.out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    key = jax.random.key(options.seed)
    settings = {
        "seed": str(options.seed),
        "sections": str(options.sections),
        "student_steps": ",".join(map(str, student)),
        "teacher": checkpoint.component_digest(options.checkpoint, "transformer"),
    }
    numbers = range(options.shard, len(prompts), options.of)
    for number in track(numbers, "trajectories", unit="videos"):
        path = out / f"{number:06d}{SUFFIX}"
        made_from = settings | {"prompt": prompts[number]}
        with only_writer(path, "the trajectory"):
            if path.exists():
                check_metadata(path, made_from)
                continue
            own_key = jax.random.fold_in(key, number)
            trajectory = make_trajectory(
                pipeline, prompts[number], request, own_key, options.sections, student
            )
            save_trajectory(path, trajectory, made_from)
    print(f"wrote {len(list(out.glob(f'*{SUFFIX}')))} trajectories to {out}")


def read_steps(words: Sequence[str], stages: int) -> tuple[int, ...]:
    """The student's steps of each stage.

    Raises:
      RequestError: if they are not a positive number for each stage.
    """
    steps = tuple(int(word) if word.isdecimal() and len(word) < 5 else 0 for word in words)
    if len(steps) != stages or min(steps) < 1:
        raise RequestError(
            f"--student_steps={','.join(words)} must be {stages} positive numbers below 10,000, "
            "one for each stage of the checkpoint"
        )
    return steps


def read_prompts(options: flags.FlagValues) -> list[str]:
    """The prompts of --prompt_file, or captions of --world.

    Raises:
      RequestError: if neither or both are given, or the file cannot be read or has none.
    """
    file = options.prompt_file
    if (file is None) == (options.world is None):
        raise RequestError("give prompts: one of --prompt_file and --world")
    if file is None:
        numbers = range(options.world)
        return [caption(sample_scene(options.seed, number), number) for number in numbers]
    try:
        lines = read_text(file).splitlines()
    except ReadError as error:
        raise RequestError(f"--prompt_file={error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise RequestError(f"--prompt_file={file} has no prompts")
    return prompts
