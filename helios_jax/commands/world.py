"""The procedural world: captioned clips of simple things that move, of any length, the same for the
same seed.

The tests and the examples use them, and small models learn from them.

  python -m helios_jax.commands.world --out clips --clips 100 --frames 99 --height 64 --width 128 --seed 0

writes ``clips/00000.mp4`` and so on, and ``clips/captions.jsonl`` with a line ``{"path":
"00000.mp4", "caption": "..."}`` for each.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from helios_jax.media import MediaError, open_video_writer
from helios_jax.world.captions import caption
from helios_jax.world.drawing import SMALLEST, render
from helios_jax.world.scenes import (
    EDITIONS,
    SPLITS,
    Background,
    Object,
    Scene,
    is_held_out,
    sample_scene,
)

__all__ = [
    "EDITIONS",
    "SPLITS",
    "Background",
    "Object",
    "Scene",
    "caption",
    "is_held_out",
    "render",
    "sample_scene",
]

CAPTIONS = "captions.jsonl"


def main(arguments: list[str] | None = None) -> None:
    """Write clips and their captions."""
    parser = argparse.ArgumentParser(
        "python -m helios_jax.commands.world",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder for the clips; made if it is not there, and must not hold captions yet",
    )
    parser.add_argument("--clips", type=int, default=100, help="how many clips (default 100)")
    parser.add_argument(
        "--frames", type=int, default=99, help="frames of a clip (default 99: three chunks of 33)"
    )
    parser.add_argument(
        "--height", type=int, default=64, help="pixels, an even number (default 64)"
    )
    parser.add_argument(
        "--width", type=int, default=128, help="pixels, an even number (default 128)"
    )
    parser.add_argument("--fps", type=int, default=24, help="frames per second (default 24)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, another series of scenes (default 0)"
    )
    parser.add_argument(
        "--start",
        type=int,
        default=0,
        help="number of the first scene, so that several processes can share a series (default 0)",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="heldout: every clip has an object such as train never shows (default train)",
    )
    parser.add_argument(
        "--edition",
        type=int,
        choices=tuple(EDITIONS),
        default=1,
        help="2: larger objects (default 1)",
    )
    options = parser.parse_args(arguments)
    for name in ("clips", "frames", "fps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)} must be at least 1")
    for name in ("seed", "start"):
        if getattr(options, name) < 0:
            parser.error(f"--{name}={getattr(options, name)} must not be negative")
    for name in ("height", "width"):
        if getattr(options, name) < SMALLEST or getattr(options, name) % 2:
            parser.error(f"--{name}={getattr(options, name)} must be even and at least {SMALLEST}")
    try:
        _write(options)
    except (MediaError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def _write(options: argparse.Namespace) -> None:
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / CAPTIONS
    if index.exists():
        raise MediaError(f"{index} exists already; remove it or name another folder")
    lines = []
    for number in tqdm(
        range(options.start, options.start + options.clips), unit="clip", desc=str(folder)
    ):
        scene = sample_scene(options.seed, number, options.split, options.edition)
        path = folder / f"{number:05d}.mp4"
        with open_video_writer(path, options.fps) as writer:
            writer.write(render(scene, options.frames, options.height, options.width, options.fps))
        lines.append(json.dumps({"path": path.name, "caption": caption(scene, number)}))
    partial = folder / f".{CAPTIONS}.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, index)


if __name__ == "__main__":
    main()
