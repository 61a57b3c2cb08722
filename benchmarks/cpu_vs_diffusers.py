"""helios-jax beside PyTorch (diffusers) on a CPU: the same weights, prompts and noise in one run.

  python benchmarks/cpu_vs_diffusers.py                   # all variants; ten minutes on two cores
  python benchmarks/cpu_vs_diffusers.py --variants=distilled --repeats=3
  python benchmarks/cpu_vs_diffusers.py --out=/tmp/quick  # writes /tmp/quick.json and /tmp/quick.md

A pipeline folder of random weights (transformer of 61 M parameters with the released head size, VAE
a third of the released width, UMT5 of the small model's size) is saved by diffusers and converted
to a helios-jax checkpoint, as a user converts a release. Each system then runs in a process of its
own, float32, with as many threads as cores; the two take turns, A B A B, and the table holds
medians. Both files are written anew after each row, so an interrupted run leaves what it measured.

On a busy machine, one core and CPU time still compare (with more cores, PyTorch's threads wait for
one another busily, and its times explode):

  taskset -c 0 python benchmarks/cpu_vs_diffusers.py --out=/tmp/one_core

Rows:

  request            prompt to frames in host memory, everything warm; the outputs that are
                     compared are frames in [0, 1]
  chunk              all transformer calls of one chunk; for helios-jax the whole chunk program,
                     with solver, pyramid and history
  forward, stage k   one transformer call at pyramid stage k, as each sampler makes it: helios-jax
                     has the text's and the history's parts ready
  forward, alone     the last of them with nothing prepared: all text rows, history patches and
                     rotations are computed inside
  text, vae decode   one prompt; one chunk
  matmul             2048 x 2048 x 2048, the rate that the other rows are compared with

GFLOP counts the multiplications of matrix products, convolutions and attention that PyTorch runs
for a row, times two. The rates of both systems divide it by their seconds, so work that helios-jax
does not do counts as if it were done.

One departure from diffusers as released: block noise is injected, since its Cholesky factor does
not exist in float32, and so is the initial noise, so that outputs can be compared. Velocities are
made contiguous for CFG-Zero*.
"""

import contextlib
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cpu_case as case
import numpy as np
from absl import app, flags

VARIANTS = flags.DEFINE_list(
    "variants",
    ["distilled", "mid", "base"],
    "Which models: distilled has every row, mid and base the request only.",
)
REPEATS = flags.DEFINE_integer(
    "repeats",
    7,
    "Timed repeats of each row and system, after one that compiles and is compared.",
    lower_bound=1,
)
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/cpu_vs_diffusers"),
    "Result files, without .json and .md.",
)
WORKER = flags.DEFINE_enum(
    "worker",
    None,
    ["folder", "torch", "jax"],
    "Internal: make the folder, or be one of the two systems.",
)
FOLDER = flags.DEFINE_string("folder", None, "Internal: the worker's folder.")

TITLES = {
    "distilled": "Distilled, 2-2-2 steps, amplified first chunk",
    "mid": "Mid, 3-3-3 steps, guided",
    "base": "Base, 6 steps, guided",
}


def worker(system: str, folder: Path, variant: str) -> None:
    """Serve rows.

    Reads lines ``[row, is_first]`` and answers each with seconds, peak memory and, the first time,
    operations. Outputs go to files.
    """
    rows = importlib.import_module(f"cpu_{system}_rows").rows(folder, variant)
    answers = sys.stdout
    sys.stdout = sys.stderr  # so that nothing else is printed among the answers
    print(json.dumps(list(rows)), file=answers, flush=True)
    for line in sys.stdin:
        name, first = json.loads(line)
        row = rows[name]
        answer = {}
        start = time.perf_counter()
        cpu_start = time.process_time()
        with count_operations(answer) if first and system == "torch" else contextlib.nullcontext():
            result = row.run()
        seconds = time.perf_counter() - start
        cpu = time.process_time()
        answer |= {
            "seconds": seconds,
            "cpu_seconds": cpu - cpu_start,
            "cpu_total": cpu,
            "peak_bytes": peak_bytes(),
        }
        if first:
            output = row.compared() if row.compared else result
            if output is not None:
                np.save(folder / f"{system} {name}.npy", output)
        print(json.dumps(answer), file=answers, flush=True)


@contextlib.contextmanager
def count_operations(answer: dict) -> Iterator[None]:
    """Add ``gflop`` to ``answer``: the operations that PyTorch does inside."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention = {on_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        yield
    answer["gflop"] = counter.get_total_flops() / 1e9


def peak_bytes() -> int:
    """Largest resident memory this process has had."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def busy_seconds() -> float:
    """CPU time that all processes of the machine have used."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split()[1:11]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class System:
    """A worker process, with a line for each question and each answer."""

    def __init__(self, name: str, folder: Path, variant: str):
        command = [
            sys.executable,
            __file__,
            f"--worker={name}",
            f"--folder={folder}",
            f"--variants={variant}",
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rows = self._answer()

    def run(self, row: str, first: bool = False) -> dict:
        """Run a row; the worker's answer."""
        self.process.stdin.write(json.dumps([row, first]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the worker of {self.process.args[2]} ended early; its message is above")
        return json.loads(line)


def measure(variant: str, report: Callable[[dict], None]) -> None:
    """All rows of a variant, each reported when it is done."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        log(f"{variant}: saving and converting random weights")
        options = [f"--folder={folder}", f"--variants={variant}"]
        subprocess.run([sys.executable, __file__, "--worker=folder", *options], check=True)
        systems = {name: System(name, folder, variant) for name in ("torch", "jax")}
        for row in systems["torch"].rows:
            log(f"{variant}: {row}")
            result = {"variant": variant, "row": row, **measure_row(systems, row)}
            outputs = [folder / f"{name} {row}.npy" for name in systems]
            compared = all(path.exists() for path in outputs)
            result["error"] = largest_error(*map(np.load, outputs)) if compared else None
            report(result)
        for system in systems.values():
            system.close()


def measure_row(systems: dict[str, System], row: str) -> dict:
    """Times of a row by both systems, which take turns."""
    first = {name: system.run(row, first=True) for name, system in systems.items()}
    log(
        f"first run: torch {first['torch']['seconds']:.1f} s, "
        f"jax with compilation {first['jax']['seconds']:.1f} s"
    )
    last = dict(first)
    times = {name: [] for name in systems}
    cpu_times = {name: [] for name in systems}
    began = time.perf_counter()
    busy = busy_seconds() - sum(answer["cpu_total"] for answer in first.values())
    for _ in range(REPEATS.value):
        for name, system in systems.items():
            last[name] = system.run(row)
            times[name].append(last[name]["seconds"])
            cpu_times[name].append(last[name]["cpu_seconds"])
    busy = busy_seconds() - sum(answer["cpu_total"] for answer in last.values()) - busy
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    result = {
        "torch_over_jax": medians["torch"] / medians["jax"],
        "gflop": first["torch"]["gflop"],
        "cores_busy_with_others": max(0.0, busy) / (time.perf_counter() - began),
    }
    for name in systems:
        result[name] = {
            "first_s": first[name]["seconds"],
            "median_s": medians[name],
            "median_cpu_s": statistics.median(cpu_times[name]),
            "min_s": min(times[name]),
            "max_s": max(times[name]),
            "gflop_per_s": first["torch"]["gflop"] / medians[name],
            "peak_bytes": last[name]["peak_bytes"],
        }
    return result


def largest_error(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Largest deviation relative to the largest value."""
    if theirs.shape != ours.shape:
        sys.exit(
            f"outputs of shapes {theirs.shape} (torch) and {ours.shape} (jax) cannot be compared"
        )
    return float(np.abs(theirs - ours).max() / np.abs(theirs).max())


def conditions() -> dict:
    """Everything a figure depends on."""
    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ("jax", "jaxlib", "torch", "diffusers", "transformers", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{len(cpu)} cores of {cpu[0]}",
        "load_average_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "threads": len(os.sched_getaffinity(0)),
        "dtype": "float32",
        "size": f"{case.HEIGHT} x {case.WIDTH} pixels, 33 frames a chunk",
        "chunks": case.CHUNKS,
        "steps": case.STEPS,
        "guidance_scale": case.GUIDANCE,
        "transformer": case.TRANSFORMER,
        "vae": case.VAE,
        "text_encoder": case.TEXT,
        "prompt": case.PROMPT,
        "repeats": REPEATS.value,
        "statistic": "median of repeats that alternate between the systems, after one run of each "
        "that is not timed",
        "others": "cores kept busy by other processes during a row; if they are well above 0.1, "
        "the row says little, because PyTorch's threads wait for one another",
        "peak_memory": "VmHWM of the process after the row; a process runs a variant's rows in "
        "order, compilation included",
    }


def markdown(report: dict) -> str:
    """The results as tables."""
    lines = [
        "# helios-jax and PyTorch (diffusers) on a CPU",
        "",
        f"`{report['command']}`; how to read a row: `--help`.",
        "",
    ]
    for variant in dict.fromkeys(result["variant"] for result in report["results"]):
        rows = {
            result["row"]: result for result in report["results"] if result["variant"] == variant
        }
        lines += [f"## {TITLES[variant]}", "", *TABLE_HEAD]
        lines += [f"| {' | '.join(cells(name, row))} |" for name, row in rows.items()]
        lines.append("")
        for name, row in rows.items():
            if name != "matmul" and "matmul" in rows and row["torch_over_jax"] < 1:
                ours, theirs = (
                    row[system]["gflop_per_s"] / rows["matmul"][system]["gflop_per_s"]
                    for system in ("jax", "torch")
                )
                lines += [
                    f"{name}: slower than PyTorch. JAX runs it at {ours:.0%} of its matmul rate, "
                    f"PyTorch at {theirs:.0%} of its own.",
                    "",
                ]
    lines += [
        "## Conditions",
        "",
        *(f"* {name}: {value}" for name, value in report["conditions"].items()),
        "",
    ]
    return "\n".join(lines)


COLUMNS = (
    *("row", "GFLOP", "torch s", "jax s", "torch / jax", "torch GFLOP/s", "jax GFLOP/s", "error"),
    *("torch CPU s", "jax CPU s", "torch GB", "jax GB", "others"),
)
TABLE_HEAD = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]


def cells(name: str, row: dict) -> list[str]:
    """A row of the table."""
    systems = row["torch"], row["jax"]
    return [
        name,
        f"{row['gflop']:.1f}",
        *(f"{system['median_s']:.3f}" for system in systems),
        f"**{row['torch_over_jax']:.2f}**",
        *(f"{system['gflop_per_s']:.0f}" for system in systems),
        "" if row["error"] is None else f"{row['error']:.0e}",
        *(f"{system['median_cpu_s']:.3f}" for system in systems),
        *(f"{system['peak_bytes'] / 1e9:.2f}" for system in systems),
        f"{row['cores_busy_with_others']:.2f}",
    ]


def write(path: Path, text: str) -> None:
    """Replace a file at once."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def log(message: str) -> None:
    print(f"[{datetime.datetime.now():%H:%M:%S}] {message}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    """Measure each variant; write both files after each row."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    if unknown := set(VARIANTS.value) - set(TITLES):
        sys.exit(f"unknown variants: {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}")
    if WORKER.value == "folder":
        return case.make_folder(Path(FOLDER.value), VARIANTS.value[0])
    if WORKER.value:
        return worker(WORKER.value, Path(FOLDER.value), VARIANTS.value[0])
    command = " ".join(["python benchmarks/cpu_vs_diffusers.py", *sys.argv[1:]])
    report = {"command": command, "conditions": conditions(), "results": []}

    def add(result: dict) -> None:
        log(
            f"torch {result['torch']['median_s']:.3f} s, jax {result['jax']['median_s']:.3f} s, "
            f"ratio {result['torch_over_jax']:.2f}"
        )
        report["results"].append(result)
        write(Path(f"{OUT.value}.json"), json.dumps(report, indent=2) + "\n")
        write(Path(f"{OUT.value}.md"), markdown(report))

    for variant in VARIANTS.value:
        measure(variant, add)
    print(Path(f"{OUT.value}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    app.run(main)
