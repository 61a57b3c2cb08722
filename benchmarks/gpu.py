"""How fast helios-jax is on one GPU: kernels, attention, one forward, the VAE, chunks and requests.

  python benchmarks/gpu.py                          # full size: eight minutes, 60 GB of GPU memory
  python benchmarks/gpu.py --budget_s=240           # no row begins later; the rest is not measured
  python benchmarks/gpu.py --rows=kernel,attention  # some of the rows
  python benchmarks/gpu.py --resume                 # only what --out does not have yet
  python benchmarks/gpu.py --size=toy               # every row, small, on any device: does it run?

Weights and data are random. Each row is written to --out as soon as it is measured, so an
interrupted run leaves the rows it has. How a row is timed:

  copy            x + 1 over 1 GiB of bfloat16, bytes read and written
  matmul          the widest product of the model
  kernel          a queue of calls over buffers that together exceed the L2 cache several times;
                  bytes are those of operands and results, once each; `reference` is plain JAX, one
                  operation after another, and `xla` the same as XLA fuses it
  attention       4 N S d K operations
  convolution     of the VAE; operations are those of the plain form
  block, forward  bfloat16, batch 1, history and text prepared, as the sampler calls them;
                  operations are those of PyTorch, which prepares nothing
  forward of stacked blocks   the same as a loop over one array for all blocks, which copies them
  vae             one chunk of latents to 8-bit frames, by the form of its convolutions
  chunk           seconds between the frames of two chunks in host memory, median of chunks 2 to 8;
                  transformer, VAE and copy inside
  request         prompt to the last frame, everything compiled; `first frames` is the wait for the
                  first chunk
"""

import datetime
import importlib.metadata
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from gpu_kernels import attention_rows, convolution_rows, device_rows, kernel_rows
from gpu_model import PROMPT, model_rows
from gpu_rows import UNITS, Row, Size, read_size

from helios_jax.compile_cache import use_compile_cache

SIZE = flags.DEFINE_enum(
    "size", "full", ["full", "toy"], "The released model at 384 x 640, or the tiny preset."
)
BUDGET = flags.DEFINE_float("budget_s", 540, "Seconds after which no further row begins.")
ROWS = flags.DEFINE_list("rows", [], "Rows to measure, by how their names begin; all by default.")
REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Timed repeats of a row; medians are reported.", lower_bound=1
)
RESUME = flags.DEFINE_bool("resume", False, "Keep the rows that --out has, and measure the others.")
OUT = flags.DEFINE_string(
    "out", str(Path(__file__).parent / "results/gpu"), "Result file, without .json."
)
LATE = "there was no time left for it"
"""Why a row is not measured that another run measures."""


def rows(size: Size) -> Iterator[Row]:
    """Every row."""
    yield from device_rows(size)
    yield from kernel_rows(size)
    yield from attention_rows(size)
    yield from convolution_rows(size)
    yield from model_rows(size)


def measure(row: Row, deadline: float) -> dict[str, Any]:
    """Time a row at least once, and no more after the deadline.

    Args:
      row: to be timed.
      deadline: on the monotonic clock.
    """
    began = time.perf_counter()
    run = row.make()
    run()
    compiled = time.perf_counter() - began
    samples = []
    repeats = 0
    while not samples or (repeats < REPEATS.value and time.monotonic() < deadline):
        samples += np.atleast_1d(run()).tolist()
        repeats += 1
    median = statistics.median(samples)
    result = {
        "row": row.name,
        "median_s": median,
        "min_s": min(samples),
        "max_s": max(samples),
        "repeats": repeats,
        "samples": len(samples),
        "first_s": compiled,
        "peak_bytes_so_far": peak_bytes(),
    }
    if row.amount:
        unit, amount = row.amount
        result |= {"rate": amount / median / UNITS[unit], "unit": unit, "amount": amount}
    if row.assumed:
        result["assumed"] = row.assumed
    return result


def peak_bytes() -> int:
    """Peak memory of the device, or of this process where the device keeps no count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return stats.get("peak_bytes_in_use", process)


def conditions(size: Size) -> dict[str, Any]:
    """What the rows were measured on, and how."""
    device = jax.local_devices()[0]
    sample = size.config.sample
    packages = ("jax", "jaxlib", "triton", "jax-triton", "numpy")
    installed = {name: importlib.metadata.version(name) for name in packages if has(name)}
    version = getattr(device.client, "platform_version", device.platform)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"one {device.device_kind}",
        "platform": version.strip().splitlines()[0],
        "python": platform.python_version(),
        **installed,
        "size": SIZE.value,
        "dtype": "bfloat16 weights and activations; float32 latents, norms, modulation",
        "weights and data": "random",
        "video": f"{sample.width} x {sample.height}, batch 1, no guidance; a chunk begins before "
        "the previous one is copied to the host",
        "prompt": PROMPT,
        "statistic": f"median of {REPEATS.value} repeats after one that compiles, or of as many as "
        f"the budget of {BUDGET.value:g} s left time for",
        "peak memory": "of the device"
        if device.memory_stats()
        else "of the process, because the device keeps no count",
    }


def has(package: str) -> bool:
    """Whether a package is installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def line(result: dict[str, Any]) -> str:
    """A row as a line of text."""
    if "not_measured" in result:
        return f"{result['row']}: not measured: {result['not_measured']}"
    rate = f", {result['rate']:.4g} {result['unit']}" if "rate" in result else ""
    spread = f"{result['min_s'] * 1e3:.4g} .. {result['max_s'] * 1e3:.4g}"
    return f"{result['row']}: {result['median_s'] * 1e3:.4g} ms ({spread}){rate}"


def write(path: Path, text: str) -> None:
    """Replace a file at once."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def main(argv: list[str]) -> None:
    """Measure row after row while there is time; write the file after each."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    use_compile_cache()  # a run that goes on compiles nothing twice
    deadline = time.monotonic() + BUDGET.value
    path = Path(f"{OUT.value}.json")
    size = read_size(SIZE.value)
    results = {}
    if RESUME.value and path.exists():
        had = json.loads(path.read_text())["results"]
        results = {row["row"]: row for row in had if row.get("not_measured") != LATE}
    command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
    report = {"command": command, "conditions": conditions(size)}
    for row in rows(size):
        wanted = not ROWS.value or row.name.startswith(tuple(ROWS.value))
        if not wanted or row.name in results:
            continue
        if time.monotonic() > deadline:
            result = {"row": row.name, "not_measured": LATE}
        else:
            try:
                result = measure(row, deadline)
            # Refused, or more memory than there is: the other rows still count.
            except (ValueError, jax.errors.JaxRuntimeError) as error:
                result = {"row": row.name, "not_measured": " ".join(str(error).split())[:300]}
        print(line(result), flush=True)
        results[row.name] = result
        write(path, json.dumps(report | {"results": list(results.values())}, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
