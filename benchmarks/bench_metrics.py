"""HeliosBench's metrics on a CPU, beside PyTorch on the same machine, with the same random weights.

  python benchmarks/bench_metrics.py                     # about ten minutes on two cores
  python benchmarks/bench_metrics.py --rows=aesthetic --repeats=5 --out=/tmp/quick

Each system runs in a process of its own, float32, with as many threads as cores; they take turns,
and the table holds medians. Rows that are not named are kept from the file, if they were measured
on the same machine with the same versions. Each says when, how often, and beside how much other
work: "load" is the system's load average as the row begins. CPU seconds say more than seconds where
others use the machine, save that PyTorch's threads wait for one another busily.

Rows, each from uint8 frames of 384x640 to the figure:
  aesthetic   8 frames through CLIP ViT-L/14 and LAION's head; PyTorch's side is transformers'
  semantic    8 frames and a text of 32 tokens through ViCLIP-L/14
  smoothness  four pairs through AMT-S; PyTorch takes one after another, as the original does
  amplitude   one pair by OpenCV, which is what the original uses
  reading     33 frames of a file of 480x832 pixels
"""

import datetime
import functools
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
from typing import Any

import numpy as np
from absl import app, flags

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

ROWS = ("aesthetic", "semantic", "smoothness", "amplitude", "reading")
CHOSEN = flags.DEFINE_list("rows", list(ROWS), "Which rows.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed repeats of each row.", lower_bound=1)
OUT = flags.DEFINE_string(
    "out", str(ROOT / "benchmarks/results/bench_metrics"), "Result files, without suffix."
)
WORKER = flags.DEFINE_enum("worker", None, ["torch", "jax"], "Internal: be one of the systems.")
FOLDER = flags.DEFINE_string("folder", "", "Internal: the workers' folder.")

HEIGHT, WIDTH = 384, 640
TEXT_IDS = np.array([[49406, *range(300, 330), 49407]], np.int32)

Row = Callable[[], np.ndarray]


@functools.cache
def frames(count: int) -> np.ndarray:
    """Waves that move, and noise; uint8."""
    t, y, x, c = np.ogrid[0:count, 0:HEIGHT, 0:WIDTH, 0:3]
    wave = np.sin(0.05 * (x - 3 * t) + c) + np.cos(0.03 * (y + 2 * t))
    noise = np.random.default_rng(0).normal(scale=4, size=(count, HEIGHT, WIDTH, 3))
    return np.clip(128 + 50 * wave + noise, 0, 255).astype(np.uint8)


def weights(table: str) -> dict[str, np.ndarray]:
    """Random tensors of a network under its published names."""
    from helios_jax.evaluation.bench.networks import names
    from helios_jax.evaluation.bench.networks.clip import VisionConfig
    from helios_jax.evaluation.bench.networks.viclip import TextConfig
    from tests.evaluation.bench.golden import amt_arrays

    if table == "amt":
        return amt_arrays()
    slots = {
        "clip": names.clip_hf_slots(VisionConfig()),
        "head": names.aesthetic_slots(VisionConfig()),
        "video": names.viclip_vision_slots(VisionConfig()),
        "text": names.viclip_text_slots(TextConfig()),
    }[table]
    # One million values again and again: drawing 300 million takes longer than a row.
    pool = np.random.default_rng(0).standard_normal(2**20 + 1, np.float32)
    arrays = {}
    for slot in slots:
        fan_in = np.prod(slot.shape[1:]) if len(slot.shape) > 1 else 100
        arrays[slot.name] = np.resize(pool, slot.shape) / np.float32(fan_in**0.5)
        if len(slot.shape) == 1 and slot.name.endswith("weight"):
            arrays[slot.name] += 1
    return arrays


def jax_row(name: str) -> Row:
    """A row with helios-jax; what it needs is loaded here."""
    from helios_jax.evaluation.bench import Video, amplitude
    from helios_jax.evaluation.bench.aesthetic import AestheticModel
    from helios_jax.evaluation.bench.networks import names
    from helios_jax.evaluation.bench.networks.amt import AMT
    from helios_jax.evaluation.bench.networks.amt_names import amt_slots
    from helios_jax.evaluation.bench.networks.clip import ImageEncoder, VisionConfig
    from helios_jax.evaluation.bench.networks.tokenizer import ClipTokenizer
    from helios_jax.evaluation.bench.networks.viclip import TextConfig, TextEncoder, VideoEncoder
    from helios_jax.evaluation.bench.networks.weights import build_params
    from helios_jax.evaluation.bench.semantic import SemanticModel
    from helios_jax.evaluation.bench.smoothness import SmoothnessModel
    from helios_jax.evaluation.bench.video import FrameVideo
    from tests.evaluation.bench.golden import as_tensors

    def params(table: str, slots: list) -> Any:
        return build_params(table, slots, as_tensors(weights(table)))

    vision, text = VisionConfig(), TextConfig()
    if name == "aesthetic":
        networks = {
            "encoder": params("clip", names.clip_hf_slots(vision)),
            "head": params("head", names.aesthetic_slots(vision)),
        }
        rater = AestheticModel(ImageEncoder(vision), networks)
        return lambda: rater.rate(frames(8), range(8))
    if name == "semantic":
        networks = {
            "video": params("video", names.viclip_vision_slots(vision)),
            "text": params("text", names.viclip_text_slots(text)),
        }
        model = SemanticModel(
            VideoEncoder(vision), TextEncoder(text), networks, ClipTokenizer([("a", "b")])
        )
        return lambda: model.similarity(FrameVideo(frames(8)), range(8), TEXT_IDS)
    if name == "smoothness":
        foreteller = SmoothnessModel(AMT(), params("amt", amt_slots()))
        return lambda: foreteller.deviations(frames(9), range(0, 8, 2))
    if name == "amplitude":
        return lambda: amplitude.flows(frames(2)).lengths
    return lambda: Video(Path(FOLDER.value) / "clip.mp4").frames


def torch_row(name: str) -> Row:
    """A row with PyTorch."""
    import torch

    from helios_jax.evaluation.bench.networks.clip import VisionConfig
    from helios_jax.evaluation.bench.networks.viclip import TextConfig
    from helios_jax.evaluation.bench.preprocess import MEAN, STD
    from tests.evaluation.bench import torch_networks

    torch.set_num_threads(cores())
    torch.set_grad_enabled(False)

    def load(model: torch.nn.Module, table: str) -> torch.nn.Module:
        state = {key: torch.from_numpy(array) for key, array in weights(table).items()}
        model.load_state_dict(state, strict=False)
        return model.eval()

    def prepared(as_bytes: bool) -> torch.Tensor:
        pixels = torch.from_numpy(np.moveaxis(frames(8), -1, 1).copy()).float()
        resized = torch.nn.functional.interpolate(pixels, (224, 373), mode="bicubic")
        if as_bytes:
            resized = resized.clamp(0, 255).round()
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        return (resized[..., 74:298] / 255 - mean) / std

    def unit(features: torch.Tensor) -> torch.Tensor:
        return features / features.norm(dim=-1, keepdim=True)

    if name == "aesthetic":
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        config = CLIPVisionConfig(
            **sizes, num_attention_heads=16, patch_size=14, projection_dim=768
        )
        encoder = load(CLIPVisionModelWithProjection(config), "clip")
        head = {key: torch.from_numpy(array) for key, array in weights("head").items()}

        def rate() -> np.ndarray:
            features = unit(encoder(prepared(False)).image_embeds)
            return ((features @ head["weight"].T + head["bias"])[:, 0] / 10).numpy()

        return rate
    if name == "semantic":
        video = load(torch_networks.VideoEncoder(VisionConfig()), "video")
        text = load(torch_networks.TextEncoder(TextConfig()), "text")
        ids = torch.from_numpy(TEXT_IDS)
        return lambda: (unit(text(ids)) @ unit(video(prepared(True)[None]))[0]).numpy()
    network = load(torch_networks.AMT(), "amt")

    def deviation(start: int) -> float:
        triple = torch.from_numpy(np.moveaxis(frames(9)[start : start + 3], -1, 1).copy()).float()
        made = network(triple[:1] / 255, triple[2:] / 255)
        return float((triple[1:2] - (made * 255).clamp(0, 255).floor()).abs().mean())

    return lambda: np.array([deviation(start) for start in range(0, 8, 2)])


def work(system: str) -> None:
    """Run the rows that are named on standard input, once a line, and tell what each took."""
    make = torch_row if system == "torch" else jax_row
    rows: dict[str, Row] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in rows:
            rows.clear()  # frees the network before
            rows[name] = make(name)
        cpu = time.process_time()
        start = time.perf_counter()
        result = rows[name]()
        took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        np.save(Path(FOLDER.value) / f"{system}.npy", result)
        print(json.dumps(took), flush=True)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def measure(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row: medians of both systems, and how far their results are apart."""
    systems = {}
    for system in ("torch", "jax"):
        command = [sys.executable, __file__, f"--worker={system}", f"--folder={folder}"]
        systems[system] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(system: str, row: str) -> dict[str, float]:
        pipes = systems[system]
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        pipes.stdin.write(f"{row}\n")
        pipes.stdin.flush()
        return json.loads(pipes.stdout.readline())

    for row in CHOSEN.value:
        both = ("torch", "jax") if row in ROWS[:3] else ("jax",)
        for system in both:
            run(system, row)  # loads and compiles
        found: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "load": round(os.getloadavg()[0], 1),
            "repeats": REPEATS.value,
        }
        if len(both) == 2:
            ours, theirs = (np.load(folder / f"{system}.npy") for system in ("jax", "torch"))
            found["error"] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        times = {system: [] for system in both}
        for _ in range(REPEATS.value):
            for system in both:
                times[system].append(run(system, row))
        for system in both:
            for kind in ("seconds", "cpu"):
                found[f"{system} {kind}"] = statistics.median(t[kind] for t in times[system])
        print(row, found, flush=True)
        yield row, found
    for process in systems.values():
        process.communicate()  # closes its input, at which it ends


PER_CLIP = {
    "aesthetic": lambda count: count / 8,
    "semantic": lambda count: 1,
    "smoothness": lambda count: (count - 1) // 2 / 4,
    "amplitude": lambda count: count - 1,
    "reading": lambda count: count / 33,
}
"""How often the work of a row occurs in a clip of some frames."""


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The results in Markdown."""
    lines = [
        "| row | torch s | jax s | torch / jax | torch CPU s | jax CPU s | error"
        " | clip of 81, s | clip of 1440, s | load | repeats | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, found in results.items():
        seconds = found["jax seconds"]
        cells = [row, "", f"{seconds:.3f}", "", "", f"{found['jax cpu']:.3f}", ""]
        if "torch seconds" in found:
            cells[1] = f"{found['torch seconds']:.3f}"
            cells[3] = f"**{found['torch seconds'] / seconds:.2f}**"
            cells[4] = f"{found['torch cpu']:.3f}"
            cells[6] = f"{found['error']:.0e}"
        cells += [f"{seconds * PER_CLIP[row](count):.1f}" for count in (81, 1440)]
        cells += [str(found["load"]), str(found["repeats"]), found["date"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(_: list[str]) -> None:
    """Measure, and write both result files."""
    if WORKER.value:
        work(WORKER.value)
        return
    packages = ("jax", "jaxlib", "torch", "transformers", "numpy", "opencv-python-headless")
    conditions = {
        "machine": f"{cores()} cores of {processor()}",
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "dtype": "float32",
        "frames": f"{HEIGHT}x{WIDTH} pixels, uint8, in memory",
        "weights": "random, of the published sizes",
        "statistic": "median of repeats that alternate between the systems, after one of each",
    }
    results = kept(conditions)
    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder) / "clip.mp4")
        for row, found in measure(Path(folder)):
            results[row] = found
            write(Path(OUT.value), conditions, results)
    print("\n".join(table(results)))


def kept(conditions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of the file, in the order of the table, if they were measured like this."""
    path = OUT.value and Path(f"{OUT.value}.json")
    content = json.loads(path.read_text()) if path and path.exists() else {}
    there = content.get("results", {}) if content.get("conditions") == conditions else {}
    return {row: there.get(row, {}) for row in ROWS if row in there or row in CHOSEN.value}


def write(out: Path, conditions: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
    """Write both result files; after each row, so that an interrupted run leaves what it has."""
    results = {row: found for row, found in results.items() if found}
    content = {"conditions": conditions, "results": results}
    out.with_name(f"{out.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = [
        "# HeliosBench's metrics and PyTorch on a CPU",
        "",
        "`python benchmarks/bench_metrics.py`; how to read a row: `--help`.",
        "",
        *table(results),
        "",
        "## Conditions",
        "",
        *(f"* {name}: {value}" for name, value in conditions.items()),
    ]
    out.with_name(f"{out.name}.md").write_text("\n".join(lines) + "\n")


def write_clip(path: Path) -> None:
    """A file of 33 frames of 480x832 pixels."""
    from helios_jax.media import open_video_writer

    with open_video_writer(path, fps=24) as writer:
        writer.write(np.pad(frames(33), ((0, 0), (48, 48), (96, 96), (0, 0)), mode="reflect"))


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    app.run(main)
