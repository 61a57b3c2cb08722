"""Everything that is worth measuring on a GPU that is lent for a quarter of an hour.

  python benchmarks/device_day.py                       # 12 minutes; run again, it goes on
  python benchmarks/device_day.py --parts=chunk,train   # some parts
  python benchmarks/device_day.py --size=toy            # small, on any device: does it run?

Parts run one after another, the most valuable first, each in a process of its own with a limit of
its own. What one has measured is in --out as soon as it is measured; run again, it goes on with
what is missing. At the end every row stands beside what was predicted of it: of whole programs
benchmarks/results/predicted_after.json, of single operations their amount at the rates that
helios_jax/cost/chips.py assumes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from helios_jax.cost.chips import CHIPS

HERE = Path(__file__).parent
SIZE = flags.DEFINE_enum("size", "full", ["full", "toy"], "The released model, or the tiny preset.")
BUDGET = flags.DEFINE_float("budget_s", 720, "Seconds in all, after which nothing begins.")
PARTS = flags.DEFINE_list("parts", [], "Names of the parts to run; all by default.")
OUT = flags.DEFINE_string("out", str(HERE / "results/device_day"), "A folder.")
PREDICTED = flags.DEFINE_string(
    "predicted", str(HERE / "results/predicted_after.json"), "What was predicted."
)
CHIP = flags.DEFINE_enum("chip", "h200", ["h200", "h100"], "Whose predictions to compare with.")


class Part(NamedTuple):
    """A command.

    Attributes:
      name: of the part, and of its files.
      arguments: after Python's own.
      seconds: its limit.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float


def parts() -> list[Part]:
    """All parts, the most valuable first."""
    files = f"--ours={file('chunk')}.json,{file('model')}.json"
    return [
        Part("doctor", ("-m", "helios_jax.doctor", "--json", "--budget_s=60"), 100),
        gpu("chunk", 240, "chunk"),
        gpu("rates", 60, "copy", "matmul", "attention", "convolution"),
        gpu("model", 120, "block", "forward", "vae"),
        script("train", 90, "gpu_train_step.py"),
        Part("tests", ("-m", "pytest", "-q", "-x", "tests/gpu"), 120),
        gpu("kernels", 60, "kernel"),
        gpu("requests", 60, "request", "first frames"),
        script("torch", 90, "gpu_vs_torch.py", files, budget(60), repeats()),
    ]


def gpu(name: str, seconds: float, *rows: str) -> Part:
    """Rows of benchmarks/gpu.py that are not measured yet."""
    # Its own budget ends rows; the limit is for one that does not end.
    wanted = f"--rows={','.join(rows)}"
    return script(name, seconds, "gpu.py", wanted, budget(0.7 * seconds), repeats(), "--resume")


def longer() -> int:
    """How many times as long a part may take: a toy compiles on a CPU."""
    return 5 if SIZE.value == "toy" else 1


def budget(seconds: float) -> str:
    """After which a part begins no further row."""
    return f"--budget_s={longer() * seconds:.0f}"


def repeats() -> str:
    """Of each row, after one that compiles."""
    return f"--repeats={3 if SIZE.value == 'full' else 1}"


def script(name: str, seconds: float, path: str, *arguments: str) -> Part:
    """A script beside this one."""
    given = (f"--size={SIZE.value}", f"--out={file(name)}", *arguments)
    return Part(name, (str(HERE / path), *given), seconds)


def file(name: str) -> Path:
    """Of a part's results, without its ending."""
    return Path(OUT.value, name)


def run(part: Part, left: float) -> str:
    """Run a part, and say how it ended.

    Args:
      part: what is run; what it prints goes to a file as it comes.
      left: seconds in all.
    """
    limit = min(longer() * part.seconds, left)
    began = time.monotonic()
    with file(part.name).with_suffix(".log").open("w") as log:
        try:
            command = [sys.executable, *part.arguments]
            status = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
    how = "complete" if status == 0 else f"ended with status {status}"
    if status == 0 and any("no time" in row.get("not_measured", "") for row in read(part.name)):
        how = "out of time"
    return f"{how} in {time.monotonic() - began:.0f} s"


def read(name: str) -> list[dict[str, Any]]:
    """Rows of a part, if it has any."""
    path = file(name).with_suffix(".json")
    return json.loads(path.read_text())["results"] if path.exists() else []


def measured() -> dict[str, dict[str, Any]]:
    """Rows of all parts by name."""
    return {row["row"]: row for part in parts() for row in read(part.name)}


def predictions() -> dict[str, float]:
    """Seconds of whole programs by the name of the row that measures them."""
    path = Path(PREDICTED.value)
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["rows"]
    seconds = {name: row["seconds"][CHIP.value] for name, row in rows.items()}
    vae = seconds.pop("VAE decoder, a chunk", None)
    if vae is None:
        return seconds
    found = {"vae decode of a chunk": vae}
    for name, value in seconds.items():
        # The time between two chunks has the VAE in it.
        found[name] = value + vae if name.startswith("chunk") else value
    return found


def predicted(row: dict[str, Any], programs: dict[str, float]) -> float | None:
    """Seconds predicted of a row: of a program, or of an amount at a rate that is assumed."""
    if "assumed" in row:
        rate = getattr(CHIPS[CHIP.value].rates, row["assumed"])
        return row["amount"] / rate
    return programs.get(row["row"])


def comparison(states: dict[str, str]) -> str:
    """Parts and how they ended, then prediction and measurement row by row."""
    programs = predictions()
    rows = measured()
    lines = ["# A day on a device", "", "| part | |", "|---|---|"]
    lines += [f"| {name} | {state} |" for name, state in states.items()]
    lines += ["", "| row | measured | predicted | measured / predicted |", "|---|---|---|---|"]
    for name, row in rows.items():
        if "median_s" not in row:
            lines.append(f"| {name} | not measured: {row.get('not_measured', '')} | | |")
            continue
        value = row["median_s"]
        shown = f"{value * 1e3:.4g} ms"
        if "rate" in row:
            shown += f", {row['rate']:.4g} {row['unit']}"
        wanted = predicted(row, programs)
        beside = "| |" if wanted is None else f"{wanted * 1e3:.4g} ms | {value / wanted:.2f} |"
        lines.append(f"| {name} | {shown} | {beside}")
    missing = [name for name in programs if name not in rows]
    lines += [f"| {name} | not measured | {programs[name] * 1e3:.4g} ms | |" for name in missing]
    size = f"Size: {SIZE.value}. Predictions are for the {CHIP.value}, from `{PREDICTED.value}`."
    lines += ["", size, "", *conditions(), ""]
    return "\n".join(lines)


def conditions() -> list[str]:
    """What the first part that says so was measured on, as a list."""
    for part in parts():
        path = file(part.name).with_suffix(".json")
        found = json.loads(path.read_text()).get("conditions") if path.exists() else None
        if found:
            return [f"* {name}: {value}" for name, value in found.items()]
    return []


def main(_) -> None:
    Path(OUT.value).mkdir(parents=True, exist_ok=True)
    path = Path(OUT.value, "parts.txt")
    states: dict[str, str] = {}
    if path.exists():
        states = dict(line.split("\t", 1) for line in path.read_text().splitlines())
    deadline = time.monotonic() + BUDGET.value
    for part in parts():
        wanted = not PARTS.value or part.name in PARTS.value
        if not wanted or states.get(part.name, "").startswith("complete"):
            continue
        left = deadline - time.monotonic()
        states[part.name] = run(part, left) if left > 5 else "not begun: the time was spent"
        print(f"{part.name}: {states[part.name]}", flush=True)
        path.write_text("".join(f"{name}\t{state}\n" for name, state in states.items()))
        Path(OUT.value, "comparison.md").write_text(comparison(states))
    print(comparison(states))


if __name__ == "__main__":
    app.run(main)
