"""Captioned clips of the procedural world: simple things that move, of any length.

The same seed gives the same clips. Tests and examples use them, and small models learn from them.

  helios-jax world --out=clips --clips=100 --frames=99 --height=64 --width=128 --seed=0

writes clips/00000.mp4 and so on, and clips/captions.jsonl with a line {"path": "00000.mp4",
"caption": "..."} for each.

Exit status: 0 when the clips are written, 2 when they cannot be (one line on stderr says why).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from helios_jax.commands.cli import UsageError, run_command
from helios_jax.locks import only_writer, remove_partials
from helios_jax.media import open_video_writer
from helios_jax.progress import track
from helios_jax.world.captions import caption
from helios_jax.world.drawing import SMALLEST, render
from helios_jax.world.scenes import EDITIONS, SPLITS, sample_scene
from helios_jax.writers import write_whole, writing

CAPTIONS = "captions.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__, define_flags, write_clips, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "out",
        None,
        "Folder for the clips; made if it is not there, and must not hold captions yet.",
        required=True,
        flag_values=options,
    )
    flags.DEFINE_integer("clips", 100, "Number of clips.", lower_bound=1, flag_values=options)
    flags.DEFINE_integer(
        "frames",
        99,
        "Frames of a clip; 99 are three chunks of 33.",
        lower_bound=1,
        flag_values=options,
    )
    flags.DEFINE_integer("height", 64, "Pixels, an even number.", flag_values=options)
    flags.DEFINE_integer("width", 128, "Pixels, an even number.", flag_values=options)
    flags.DEFINE_integer("fps", 24, "Frames per second.", lower_bound=1, flag_values=options)
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of the series of scenes.",
        lower_bound=0,
        flag_values=options,
    )
    flags.DEFINE_integer(
        "start",
        0,
        "Number of the first scene, so that several processes can share a series.",
        lower_bound=0,
        flag_values=options,
    )
    flags.DEFINE_enum(
        "split",
        "train",
        SPLITS,
        "heldout: every clip has an object such as train never shows.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "edition",
        "1",
        [str(edition) for edition in EDITIONS],
        "Edition of the world; objects of the second are larger.",
        flag_values=options,
    )


def write_clips(options: flags.FlagValues) -> None:
    """Write clips and their captions as the flags say."""
    for name in ("height", "width"):
        pixels = getattr(options, name)
        if pixels < SMALLEST or pixels % 2:
            raise UsageError(f"--{name}={pixels} must be even and at least {SMALLEST}")
    folder = Path(options.out)
    index = folder / CAPTIONS
    if index.exists():
        raise UsageError(f"{index} exists already; remove it or name another folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with only_writer(index, "the captions"):
        _write_clips(options, folder, index)


def _write_clips(options: flags.FlagValues, folder: Path, index: Path) -> None:
    size = (options.frames, options.height, options.width, options.fps)
    lines = []
    numbers = range(options.start, options.start + options.clips)
    for number in track(numbers, str(folder), unit="clips"):
        scene = sample_scene(options.seed, number, options.split, int(options.edition))
        path = folder / f"{number:05d}.mp4"
        remove_partials(path)
        with open_video_writer(path, options.fps) as writer:
            writer.write(render(scene, *size))
        lines.append(json.dumps({"path": path.name, "caption": caption(scene, number)}))
    write_whole(index, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
