"""Everything that is worth measuring on a GPU that is lent for a quarter of an hour.

  python benchmarks/device_day.py                       # 12 minutes; run again, it goes on
  python benchmarks/device_day.py --parts=chunk,train   # some parts
  python benchmarks/device_day.py --size=toy --budget_s=600   # small, on any device: does it run?

Parts run one after another, the most valuable first, each in a process of its own with a limit of
its own; what one has measured is in --out as soon as it is measured, and a part that is complete is
not run again. At the end every measured row stands beside what was predicted of it
(benchmarks/results/predicted_after.json, and the rates of helios_jax/cost/chips.py).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

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
    tests = ("tests/gpu",) if SIZE.value == "full" else ("tests/gpu/test_kernels.py",)
    return [
        Part("doctor", ("-m", "helios_jax.doctor", "--json", "--budget_s=60"), 100),
        gpu("chunk", 240, "chunk 1-1-1", "chunk 2-2-2"),
        gpu("rates", 60, "attention", "convolution"),
        gpu("model", 120, "block", "forward", "vae"),
        script("train", 90, "gpu_train_step.py", f"--out={file('train')}"),
        Part("tests", ("-m", "pytest", "-q", "-x", *tests), 120),
        gpu("kernels", 60, "kernel"),
        gpu("requests", 60, "request", "first frames"),
        script("torch", 120, "gpu_vs_torch.py", f"--out={file('torch')}", "--budget_s=60"),
    ]


def gpu(name: str, seconds: float, *rows: str) -> Part:
    """Rows of benchmarks/gpu.py; once it has run, those for which there was no time."""
    tries = sorted(Path(OUT.value).glob(f"{name}_*.json"))
    found = measured()
    late = [row for path in tries for row in _late(path) if "median_s" not in found[row]]
    wanted = sorted({row.partition(",")[0] for row in late}) or rows
    # Its own budget ends rows; the limit is for one that does not end.
    arguments = [f"--rows={','.join(wanted)}", f"--budget_s={0.7 * seconds:.0f}"]
    arguments.append(f"--repeats={3 if SIZE.value == 'full' else 1}")
    return script(name, seconds, "gpu.py", *arguments, f"--out={file(f'{name}_{len(tries)}')}")


def _late(path: Path) -> list[str]:
    """Rows for which a run had no time."""
    rows = json.loads(path.read_text())["results"]
    return [row["row"] for row in rows if "budget" in row.get("not_measured", "")]


def script(name: str, seconds: float, path: str, *arguments: str) -> Part:
    """A script beside this one."""
    return Part(name, (str(HERE / path), f"--size={SIZE.value}", *arguments), seconds)


def file(name: str) -> Path:
    """Of a part's results, without its ending."""
    return Path(OUT.value, name)


def run(part: Part, left: float) -> str:
    """Run a part, and say how it ended.

    Args:
      part: what is run; what it prints goes to a file as it comes.
      left: seconds in all.
    """
    # A toy compiles on a CPU for as long as the whole runs on a GPU.
    limit = min(part.seconds * (5 if SIZE.value == "toy" else 1), left)
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
    results = sorted(Path(OUT.value).glob(f"{part.name}_*.json"))
    if status == 0 and results and _late(results[-1]):
        how = "out of time"
    return f"{how} in {time.monotonic() - began:.0f} s"


def measured() -> dict[str, dict[str, Any]]:
    """Rows of all parts that have any, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(OUT.value).glob("*.json")):
        content = json.loads(path.read_text())
        for row in content.get("results", []) if isinstance(content, dict) else []:
            if "row" in row and (row["row"] not in found or "median_s" in row):
                found[row["row"]] = row
    return found


def predictions() -> dict[str, float]:
    """Seconds by the name of the row that measures them."""
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


def comparison(states: dict[str, str]) -> str:
    """Parts and how they ended, then prediction and measurement row by row."""
    expected = predictions()
    lines = ["# A day on a device", "", "| part | |", "|---|---|"]
    lines += [f"| {name} | {state} |" for name, state in states.items()]
    lines += ["", "| row | measured | predicted | measured / predicted |", "|---|---|---|---|"]
    for name, row in measured().items():
        if "median_s" not in row:
            lines.append(f"| {name} | not measured: {row.get('not_measured', '')} | | |")
            continue
        value = row["median_s"]
        shown = f"{value * 1e3:.4g} ms"
        if "rate" in row:
            shown += f", {row['rate']:.4g} {row['unit']}"
        if name in expected:
            wanted = expected[name]
            lines.append(f"| {name} | {shown} | {wanted * 1e3:.4g} ms | {value / wanted:.2f} |")
        else:
            lines.append(f"| {name} | {shown} | | |")
    missing = [name for name in expected if name not in measured()]
    lines += [f"| {name} | not measured | {expected[name] * 1e3:.4g} ms | |" for name in missing]
    size = f"Size: {SIZE.value}. Predictions are for the {CHIP.value}, from `{PREDICTED.value}`."
    return "\n".join([*lines, "", size, ""])


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
