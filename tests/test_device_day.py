"""The script for a day with a device, at toy size on whatever there is: every part runs, what is
measured is kept at once, and it ends with prediction beside measurement.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder of compiled programs that the runs share."""
    return tmp_path_factory.mktemp("cache")


def begin(folder, cache, *arguments):
    """Start the script, in a group of its own, so that it ends with all it has started."""
    command = [sys.executable, "benchmarks/device_day.py", "--size=toy", f"--out={folder}"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FAST, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read(folder, part):
    """Rows of a part by name, if there are any yet."""
    path = Path(folder, f"{part}.json")
    rows = json.loads(path.read_text())["results"] if path.exists() else []
    return {row["row"]: row for row in rows}


def test_a_day_that_is_broken_off_goes_on(tmp_path, cache):
    """Rows are there as soon as they are measured; run again, it measures the others only, and ends
    with each beside what its rate predicts.
    """
    day = begin(tmp_path, cache, "--parts=rates")
    while not read(tmp_path, "rates"):
        assert day.poll() is None, Path(tmp_path, "rates.log").read_text()
        time.sleep(0.02)
    os.killpg(day.pid, signal.SIGKILL)
    day.communicate()
    had = read(tmp_path, "rates")

    day = begin(tmp_path, cache, "--parts=rates")
    printed, _ = day.communicate()
    found = read(tmp_path, "rates")
    assert len(had) < len(found)
    assert had == {name: found[name] for name in had}
    assert Path(tmp_path, "comparison.md").read_text() in printed
    for name, row in found.items():
        line = next(line for line in printed.splitlines() if line.startswith(f"| {name} |"))
        _, _, measured, predicted, ratio, _ = map(str.strip, line.split("|"))
        assert measured.startswith(f"{row['median_s'] * 1e3:.4g} ms, ")
        assert float(ratio) > 1  # nothing is as fast as an H200
        assert predicted.endswith(" ms")


@pytest.mark.slow
def test_every_part_runs(tmp_path, cache):
    """All of them to the end, and every row that a CPU can measure is measured."""
    printed, _ = begin(tmp_path, cache, "--budget_s=3000").communicate()
    states = dict(line.split("\t") for line in Path(tmp_path, "parts.txt").read_text().splitlines())
    order = ["doctor", "chunk", "rates", "model", "train", "tests", "kernels", "requests", "torch"]
    assert list(states) == order
    for part, state in states.items():
        assert state.startswith("complete"), (part, Path(tmp_path, f"{part}.log").read_text())
    for part in ("chunk", "rates", "model", "train", "requests", "torch"):
        rows = read(tmp_path, part)
        assert rows
        assert all("median_s" in row for row in rows.values()), rows
    assert all(
        "median_s" in row for name, row in read(tmp_path, "kernels").items() if "xla" in name
    )
    predicted = json.loads((ROOT / "benchmarks/results/predicted_after.json").read_text())["rows"]
    assert all(name in printed or name.startswith("VAE") for name in predicted)
    assert "| PyTorch, chunk 2-2-2 |" in printed
