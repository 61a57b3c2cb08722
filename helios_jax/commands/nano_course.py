"""helios-nano from nothing: the whole course, part after part, each a command of helios-jax.

  helios-jax nano-course --out runs/nano-course
  helios-jax nano-course --out runs/nano-course --list

VAE, text encoder, stills, sections, out as a Wan 2.1 and back, Base, Mid, its trajectories,
Distilled, and what a judge reads in the videos of the three. The same command goes on where it was
stopped: parts that are finished are skipped, and the one that was interrupted goes on by itself.
SIGTERM and Ctrl-C save and leave.

The folder has data/, runs/ (a run each, with its metrics.jsonl), checkpoints/, release/ (what
ships, bfloat16), results/ (what a judge reads in its videos), logs/ (what each part printed) and
course.jsonl: a line whenever a part ends, with its seconds of wall clock and of processor time.
--list adds them up, in core-hours. curves.json has what was measured on the way, of all runs.

On CPUs that multiply bfloat16, matrix products have bfloat16 factors, unless
JAX_DEFAULT_MATMUL_PRECISION says otherwise: a step of stills takes 0.20 s of a core instead of
0.28.

Exit status: 0 when all parts are finished or the course was stopped, else that of the part that
failed; the end of its log says why.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from helios_jax.commands.cli import run_command
from helios_jax.errors import HeliosError
from helios_jax.readers import read_json_lines

LEDGER = "course.jsonl"
CURVES = "curves.json"
POINTS = 200
"""Of a curve, about."""


class CourseError(HeliosError):
    """A part of the course failed."""


class Part(NamedTuple):
    """A step of the course: its name, and the arguments of helios-jax."""

    name: str
    arguments: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__ or "", define_flags, follow_course, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "out",
        "runs/nano-course",
        "Folder of the course; made, or gone on with.",
        flag_values=options,
    )
    flags.DEFINE_string("until", None, "Stop after this part.", flag_values=options)
    flags.DEFINE_bool(
        "list", False, "Print the parts and what they took, and run nothing.", flag_values=options
    )


def follow_course(options: flags.FlagValues) -> None:
    """Run the parts that are not finished."""
    parts = course()
    names = [part.name for part in parts]
    if options.until is not None and options.until not in names:
        raise CourseError(f"--until={options.until}: the parts are {', '.join(names)}")
    if options.until is not None:
        parts = parts[: names.index(options.until) + 1]
    if options.list:
        print(overview(parts, Path(options.out)))
    else:
        run_parts(parts, Path(options.out))


def course() -> list[Part]:
    """The parts, in order; paths are relative to the course's folder."""
    sections = "('data/sections','data/clips')"
    with_past = "('data/clips','data/clips','data/sections')"
    return [
        train("vae_images"),
        export("vae_images", "nano-vae-images"),
        train("vae", checkpoint="nano-vae-images"),
        export("vae", "nano-vae", "--dtype=bfloat16"),
        train("text"),
        export("text", "nano-parts", "--base=checkpoints/nano-vae", "--dtype=bfloat16"),
        encode("stills", 98304, seed=1, frames=1),
        encode("stills-heldout", 512, seed=5, frames=1, split="heldout"),
        train("t2i", data="data/stills", validation="data/stills-heldout"),
        export("t2i", "nano-t2i", "--base=checkpoints/nano-parts"),
        encode("sections", 8192, seed=2, frames=33),
        encode("clips", 4096, seed=3, frames=99),
        encode("clips-heldout", 48, seed=0, frames=99, split="heldout"),
        train("t2v", checkpoint="nano-t2i", data=sections, validation="data/clips-heldout"),
        export("t2v", "nano-t2v"),
        convert("to_wan", "nano-t2v", "nano-wan-torch"),
        convert("init_from_wan", "nano-wan-torch", "nano-wan"),
        train("base", checkpoint="nano-wan", data=with_past, validation="data/clips-heldout"),
        export("base", "nano-base"),
        train("mid", checkpoint="nano-base", data=with_past, validation="data/clips-heldout"),
        export("mid", "nano-mid"),
        Part(
            "trajectories",
            (
                "ode-pairs",
                "--checkpoint=checkpoints/nano-mid",
                "--world=480",
                "--sections=2",
                "--out=data/trajectories",
            ),
        ),
        train("ode", checkpoint="nano-mid", data="data/trajectories"),
        export("ode", "nano-ode"),
        train("distilled", checkpoint="nano-ode", data="data/clips", critic="nano-base"),
        export("distilled", "nano-distilled"),
        release("base", "nano-base"),
        release("mid", "nano-mid"),
        release("distilled", "nano"),
        evaluate("nano-base"),
        evaluate("nano-mid"),
        evaluate("nano"),
    ]


def train(
    recipe: str, checkpoint: str = "", data: str = "", validation: str = "", critic: str = ""
) -> Part:
    """A run of a recipe of nano/, from a checkpoint of the course or from nothing."""
    fields = {
        "checkpoint": checkpoint and f"checkpoints/{checkpoint}",
        "critic.checkpoint": critic and f"checkpoints/{critic}",
        "data.train": data,
        "data.validation": validation,
    }
    given = [f"--config.{name}={value}" for name, value in fields.items() if value]
    return Part(recipe, ("train", f"--config=nano/{recipe}", f"--run=runs/{recipe}", *given))


def export(run: str, out: str, *options: str) -> Part:
    """What a run made, as a checkpoint of the course."""
    arguments = ("export", f"--run=runs/{run}", f"--out=checkpoints/{out}", "--overwrite")
    return Part(f"export-{run}", (*arguments, *options))


def release(run: str, out: str) -> Part:
    """What a run made, as it ships."""
    arguments = ("export", f"--run=runs/{run}", f"--out=release/{out}", "--overwrite")
    return Part(f"release-{run}", (*arguments, "--dtype=bfloat16"))


def evaluate(model: str) -> Part:
    """What a judge reads in the videos of a model that ships."""
    arguments = ("evaluate", f"--checkpoint=release/{model}", f"--out=results/{model}")
    return Part(f"evaluate-{model}", (*arguments, "--edition=2", "--prompts=128"))


def encode(name: str, count: int, seed: int, frames: int, split: str = "train") -> Part:
    """Records of so many clips of the second edition of the world."""
    arguments = (
        "encode",
        "--checkpoint=checkpoints/nano-parts",
        f"--out=data/{name}",
        f"--world={count}",
        f"--world_frames={frames}",
        f"--world_split={split}",
        "--world_edition=2",
        f"--world_uncaptioned={0.1 if split == 'train' else 0.0}",
        f"--seed={seed}",
        f"--frames={min(frames, 33)}",
        f"--min_frames={frames}",
        f"--clips_per_shard={512 if frames == 1 else 64}",
    )
    return Part(f"encode-{name}", arguments)


def convert(way: str, source: str, out: str) -> Part:
    """A checkpoint in another format."""
    arguments = ("convert", f"--{way}", f"--source=checkpoints/{source}")
    return Part(f"convert-{out}", (*arguments, f"--out=checkpoints/{out}"))


def run_parts(parts: Sequence[Part], folder: Path) -> None:
    """Run the parts that are not finished, one after another; return early on SIGTERM or Ctrl-C.

    Raises:
      CourseError: if a part fails.
    """
    for name in ("logs", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    finished = {line["part"] for line in read_ledger(folder) if line["finished"]}
    stopped: list[int] = []
    child: list[subprocess.Popen] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        for process in child:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for part in parts:
            if part.name in finished:
                continue
            print(f"{part.name}: helios-jax {' '.join(part.arguments)}", flush=True)
            began = time.time()
            with (folder / "logs" / f"{part.name}.log").open("a", encoding="utf-8") as log:
                command = [sys.executable, "-m", "helios_jax", *part.arguments]
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal's Ctrl-C comes through ``stop`` alone
                )
                child[:] = [process]
                if stopped:
                    process.send_signal(signal.SIGTERM)
                code, used = _wait(process)
            child.clear()
            line = {
                "part": part.name,
                "finished": code == 0 and not stopped,
                "seconds": round(time.time() - began, 2),
                "processor_seconds": used,
            }
            with (folder / LEDGER).open("a", encoding="utf-8") as ledger:
                ledger.write(json.dumps(line) + "\n")
            (folder / CURVES).write_text(json.dumps(curves(folder), indent=1) + "\n")
            if stopped:
                print(f"stopped in {part.name}; the same command goes on", flush=True)
                return
            if code:
                raise CourseError(
                    f"{part.name} ended with status {code}: see {folder}/logs/{part.name}.log"
                )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen) -> tuple[int, float]:
    """The status with which a process ends, and the seconds of processors that it took; 0 on
    Windows, which does not tell.
    """
    if sys.platform == "win32":
        return process.wait(), 0.0
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, round(used.ru_utime + used.ru_stime, 2)


def environment() -> dict[str, str]:
    """That of the parts: the package as it is imported here, bfloat16 products where it pays."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    given = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if multiplies_bfloat16():
        given.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16")
    return given


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; where Linux does not say, no."""
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in known or "amx_bf16" in known


def read_ledger(folder: Path) -> list[dict]:
    """What has been run, a dictionary each time that a part ended."""
    path = folder / LEDGER
    return list(read_json_lines(path)) if path.exists() else []


def curves(folder: Path) -> dict[str, list[dict[str, int | float]]]:
    """What each run wrote, by its name: all validations, and of the losses some between them."""
    found = {}
    for path in sorted(folder.glob("runs/*/metrics.jsonl")):
        lines = list(read_json_lines(path))
        every = max(1, len(lines) // POINTS)
        points = []
        for number, line in enumerate(lines):
            names = [name for name in line if name.startswith(("loss", "validation", "student"))]
            if number % every == 0 or any(name.startswith("validation") for name in names):
                # A number that was not finite is null.
                finite = [name for name in names if line[name] is not None]
                values = {name: round(line[name], 4) for name in finite}
                points.append({"step": line["step"], **values})
        found[path.parent.name] = points
    return found


def overview(parts: Sequence[Part], folder: Path) -> str:
    """A line for each part, with its state and core-hours, and their sum."""
    lines = []
    total = 0.0
    ledger = read_ledger(folder)
    for part in parts:
        own = [line for line in ledger if line["part"] == part.name]
        hours = sum(line["processor_seconds"] for line in own) / 3600
        state = "finished" if any(line["finished"] for line in own) else "begun" if own else ""
        total += hours
        lines.append(f"{part.name:<22}{state:<10}{hours:8.3f} core-hours")
    return "\n".join([*lines, f"{'all':<32}{total:8.3f} core-hours"])
