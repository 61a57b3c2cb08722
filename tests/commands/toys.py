"""What the long-running commands need, of toy size, and how each is called."""

from pathlib import Path
from typing import NamedTuple

from helios_jax import HeliosPipeline, checkpoint
from helios_jax.config import HeliosConfig
from tests.sampling.conftest import TOY
from tests.toys import toy_model, write_records

ROOT = Path(__file__).parents[2]


class Toys(NamedTuple):
    """Inputs on a disk with room.

    Attributes:
      folder: of them, and of compiled programs.
      student, teacher: checkpoints, the latter with a pyramid.
      records: a dataset.
    """

    folder: Path
    student: Path
    teacher: Path
    records: Path


def make_toys(folder: Path) -> Toys:
    """Write them."""
    records = write_records(folder / "records", 6)
    student = save(folder / "student", TOY)
    teacher = save(folder / "teacher", toy_model("pyramid"))
    return Toys(folder, student, teacher, records)


def save(folder: Path, config: HeliosConfig) -> Path:
    """A checkpoint of random weights."""
    pipeline = HeliosPipeline.random(config)
    checkpoint.save(folder, config, pipeline.params, pipeline.tokenizer)
    return folder


def commands(toys: Toys, out: Path) -> dict[str, list[str]]:
    """The arguments of each command that runs for long, with its results in the folder ``out``."""
    sample = [
        "sample",
        f"--checkpoint={toys.student}",
        "--prompt=a red ball",
        "--num_frames=132",
        "--height=64",
        "--width=64",
    ]
    kept = [
        f"--save_latents={out / 'a.safetensors'}",
        f"--statistics={out / 'a.csv'}",
        f"--report={out / 'a.svg'}",
    ]
    return {
        "live": [*sample, f"--out={out / 'live.mp4'}", "--live", *kept],
        "whole": [*sample, f"--out={out / 'whole.mp4'}", *kept],
        "train": [
            "train",
            f"--config={ROOT / 'tests/training/recipe.py'}:flow",
            f"--config.data.train={toys.records}",
            "--config.save_every=1",
            "--config.ema.decay=0.9",
            f"--run={out / 'run'}",
        ],
        "encode": [
            "encode",
            "--world=6",
            "--world_frames=99",
            "--height=64",
            "--width=64",
            f"--checkpoint={toys.student}",
            "--clips_per_shard=2",
            f"--out={out / 'records'}",
        ],
        "convert": [
            "convert",
            "--to_diffusers",
            f"--source={toys.student}",
            f"--out={out / 'diffusers'}",
        ],
        "ode-pairs": [
            "ode-pairs",
            f"--checkpoint={toys.teacher}",
            "--world=3",
            "--sections=1",
            "--student_steps=1,1,1",
            f"--out={out / 'ode'}",
        ],
    }


def again(argv: list[str], out: Path) -> list[str]:
    """The same command: with --resume where a part of a live video is there, with --overwrite where
    a process was killed that had its checkpoint in its place already.
    """
    if (out / "live.mp4.state").exists() and "--live" in argv:
        return [word for word in argv if not word.startswith("--prompt")] + ["--resume"]
    return [*argv, "--overwrite"] if (out / "diffusers").exists() else argv


def litter(folder: Path) -> list[str]:
    """Hidden files and folders, which no command leaves."""
    return [str(path) for path in folder.rglob(".*")]
