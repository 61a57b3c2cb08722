"""Peak host memory, bytes and seconds of a conversion to helios-jax and back, on a random
checkpoint of Wan-1.3B's size.

  python benchmarks/convert.py --out benchmarks/results/convert.json

makes a pipeline folder of random weights (transformer of 1.3B in bfloat16, 2.85 GB; the whole VAE
in float32; a text encoder of one layer), converts it to a helios-jax checkpoint and back, and
compares the two folders byte for byte. The second case gives the text encoder its whole vocabulary,
a single tensor of 2.1 GB. Each conversion runs `convert_torch_weights.py` in a process of its own,
whose peak resident memory (VmHWM, mapped file pages included) must stay under 2 GB plus the largest
tensor. The folders are made under --work and removed.
"""

import datetime
import filecmp
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import app, flags

from helios_jax.checkpoint.convert import FILE_STEMS
from helios_jax.checkpoint.diffusers_config import write_configs
from helios_jax.checkpoint.layout import Slot
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.checkpoint.safetensors_files import TorchTensor, write_folder
from helios_jax.config import HeliosConfig, TextEncoderConfig, TransformerConfig

OUT = flags.DEFINE_string("out", None, "JSON file for the results; printed in any case.")
WORK = flags.DEFINE_string(
    "work", None, "Folder on a disk with 25 GB free; the system's temporary folder if not given."
)
MACHINE = flags.DEFINE_string(
    "machine", f"{os.cpu_count()}-core CPU", "Name of the machine, for the results."
)

ROOT = Path(__file__).parents[1]
BOUND = 2 * 10**9
CASES = {"1.3B": 1000, "1.3B, whole vocabulary": 256384}
"""Vocabulary of the text encoder in each case."""

MEASURED = """
import runpy, sys
sys.argv = ["convert_torch_weights.py", *sys.argv[1:]]
try:
    runpy.run_path("convert_torch_weights.py", run_name="__main__")
finally:
    (peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print("peak KiB", peak)
"""


def geometry(vocabulary: int) -> HeliosConfig:
    """Helios on Wan 2.1 1.3B, with a text encoder of one layer."""
    return HeliosConfig(
        transformer=TransformerConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30),
        text_encoder=TextEncoderConfig(vocab_size=vocabulary, num_layers=1),
    )


def random_tensor(component: str, slot: Slot, seed: int) -> TorchTensor:
    """Normal values, drawn when the tensor is written; the VAE's in float32, the others' in
    bfloat16.
    """
    dtype = np.dtype(np.float32 if component == "vae" else ml_dtypes.bfloat16)
    return TorchTensor(
        dtype,
        slot.shape,
        lambda: np.random.default_rng(seed).standard_normal(slot.shape, np.float32).astype(dtype),
    )


def make_folder(folder: Path, config: HeliosConfig) -> dict[str, int]:
    """Write a Diffusers folder of random weights; returns its number of tensors, bytes and bytes of
    the largest.
    """
    sizes = []
    for component in COMPONENTS:
        tensors = {
            slot.name: random_tensor(component, slot, seed)
            for seed, slot in enumerate(component_slots(config, component))
        }
        write_folder(folder / component, FILE_STEMS[component], tensors, max_shard_bytes=5 * 10**9)
        sizes += [tensor.nbytes for tensor in tensors.values()]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    write_configs(folder, config)
    return {"tensors": len(sizes), "bytes": sum(sizes), "largest_tensor": max(sizes)}


def convert(*arguments: str) -> dict[str, float]:
    """Run the script; seconds on the clock and of processors, and peak resident bytes of its
    process.
    """
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "peak_bytes": int(done.stdout.split()[-1]) * 1024,
    }


def same_weights(one: Path, other: Path) -> bool:
    """Whether all safetensors files of two pipeline folders are equal byte for byte."""
    files = sorted(file.relative_to(one) for file in one.rglob("*.safetensors"))
    assert files == sorted(file.relative_to(other) for file in other.rglob("*.safetensors"))
    return all(filecmp.cmp(one / file, other / file, shallow=False) for file in files)


def measure(work: Path) -> list[dict]:
    """One result for each case and direction."""
    results = []
    for case, vocabulary in CASES.items():
        torch = work / "torch"
        ours = work / "ours"
        back = work / "back"
        made = make_folder(torch, geometry(vocabulary))
        for direction, source, target, options in (
            ("to helios-jax", torch, ours, []),
            ("to Diffusers", ours, back, ["--to_diffusers"]),
        ):
            row = {
                "case": case,
                "direction": direction,
                **made,
                **convert(f"--source={source}", f"--out={target}", *options),
            }
            bound = BOUND + made["largest_tensor"]
            results.append(row | {"bound_bytes": bound, "within_bound": row["peak_bytes"] < bound})
        results[-1]["equal_to_original"] = same_weights(torch, back)
        for folder in (torch, ours, back):
            shutil.rmtree(folder)
    return results


def conditions() -> dict[str, str]:
    """Everything a figure depends on."""
    packages = ("jax", "numpy", "ml_dtypes")
    return {
        "machine": MACHINE.value,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "memory": "VmHWM of the converting process: anonymous and mapped file pages, without the "
        "page cache",
        "seconds": "whole process, imports, strict check, digests and sync to disk included; the "
        "source was written just before",
        "cpu_seconds": "of the same process, user and system: what other work on the machine does "
        "not change much",
        "load_average": "of the machine's last minute, when the process ended",
    }


def main(_: list[str]) -> None:
    """Measure, print a table, write the JSON."""
    with tempfile.TemporaryDirectory(dir=WORK.value) as work:
        results = measure(Path(work))
    print(
        f"{'case':24}{'direction':16}{'tensors':>8}{'GB':>7}{'largest GB':>12}"
        f"{'seconds':>9}{'CPU s':>7}{'MB/s':>7}{'peak GB':>9}{'bound GB':>10}"
    )
    for row in results:
        rate = row["bytes"] / row["seconds"] / 1e6
        gigabytes = {name: row[name] / 1e9 for name in ("bytes", "largest_tensor", "peak_bytes")}
        print(
            f"{row['case']:24}{row['direction']:16}{row['tensors']:8}"
            f"{gigabytes['bytes']:7.2f}{gigabytes['largest_tensor']:12.2f}"
            f"{row['seconds']:9.1f}{row['cpu_seconds']:7.1f}{rate:7.0f}"
            f"{gigabytes['peak_bytes']:9.2f}{row['bound_bytes'] / 1e9:10.2f}"
        )
    report = json.dumps(
        {"command": "python benchmarks/convert.py", "conditions": conditions(), "results": results},
        indent=2,
    )
    print(report)
    if OUT.value:
        Path(OUT.value).write_text(report + "\n", encoding="utf-8")
    if not all(row["within_bound"] and row.get("equal_to_original", True) for row in results):
        sys.exit("a conversion exceeded the memory bound or changed a tensor")


if __name__ == "__main__":
    app.run(main)
