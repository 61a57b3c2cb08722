"""Both stages learn: training from random weights on the procedural world.

  python benchmarks/learning.py  # half an hour on two cores; goes on where it was stopped

The loss is always that of the same clips, of combinations that are not trained on, with the same
draws and the averaged weights. Beside it stand the losses with the captions, and with the
histories, of other clips: those of a model that does not use them would be the same. Latents stand
in for a VAE's: the sixteen principal components of cells of 4 x 8 x 8 pixels, at a mean variance of
one. Text features are those of a small text encoder with random weights.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from einops import rearrange
from tqdm import tqdm

from helios_jax.checkpoint.params import random_params
from helios_jax.config import HeliosConfig
from helios_jax.data.info import DatasetInfo, write_info
from helios_jax.data.records import Record
from helios_jax.data.shards import has_shard, open_shard
from helios_jax.fields import from_dict
from helios_jax.models.tokenizer import train_tokenizer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.sampling.curves import save_curves
from helios_jax.world import caption, render, sample_scene

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "configs/train/world.py"
FOLDER = flags.DEFINE_string("folder", "runs/learning", "Records and runs.")
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/learning"),
    "Result files, without .json, .md and .svg.",
)
CLIPS = flags.DEFINE_integer("clips", 480, "Clips to train on.")
STEPS = flags.DEFINE_integer("steps", 400, "Steps of each stage.")

SECTIONS = 3
HEIGHT = 64
WIDTH = 128
CHANNELS = 16
COUNTS = {"train": None, "heldout": 64}
CURVES = ("validation_loss", "validation_loss_other_captions", "validation_loss_other_histories")


def cells(video: np.ndarray) -> np.ndarray:
    """Frames as one vector for each cell of each latent frame.

    A section's first latent frame is its first frame, four times.
    """
    sections = video.reshape(SECTIONS, 33, HEIGHT, WIDTH, 3)
    sections = np.concatenate([np.repeat(sections[:, :1], 3, axis=1), sections], axis=1)
    sections = sections.astype(np.float32) / 127.5 - 1
    return rearrange(sections, "s (f t) (h y) (w x) c -> s f h w (t y x c)", t=4, y=8, x=8)


def clips(split: str, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Caption and cells of every clip."""
    for index in tqdm(range(count), desc=f"drawing {split}", disable=None):
        scene = sample_scene(0, index, split)
        yield caption(scene, index), cells(render(scene, 33 * SECTIONS, HEIGHT, WIDTH))


def make_records(folder: Path) -> None:
    """The clips to train on, and those to validate with."""
    if all(has_shard(folder / split, "00000") for split in COUNTS):
        return
    first = np.concatenate(
        [x[:, ::3].reshape(-1, x.shape[-1])[::5] for _, x in clips("train", 100)]
    )
    mean = first.mean(0)
    variances, components = np.linalg.eigh(np.cov(first.T))
    largest = variances[::-1][:CHANNELS]
    components = components[:, ::-1][:, :CHANNELS] / np.sqrt(largest.mean())
    share = largest.sum() / variances.sum()
    print(f"{CHANNELS} components hold {share:.1%} of the variance of cells", flush=True)

    model = from_dict(HeliosConfig, runpy.run_path(str(RECIPE))["get_config"]().model)
    counts = {split: count or CLIPS.value for split, count in COUNTS.items()}
    tokenizer = train_tokenizer(
        [caption(sample_scene(0, i), i) for i in range(counts["train"])],
        model.text_encoder.vocab_size,
    )
    encoder = UMT5Encoder(model.text_encoder)
    params = random_params(model, 0, jnp.float32)["text_encoder"]
    for split, count in counts.items():
        write_info(
            folder / split,
            DatasetInfo(
                section_frames=9,
                latent_channels=CHANNELS,
                text_width=model.text_encoder.d_model,
                text_dtype="float32",
            ),
        )
        with open_shard(folder / split, "00000") as shard:
            for index, (prompt, x) in enumerate(clips(split, count)):
                features, [length] = encode_text(
                    encoder, params, *tokenizer([prompt], model.text_encoder.max_sequence_length)
                )
                known = {
                    "id": f"{split}{index}",
                    "frames": 33 * SECTIONS,
                    "source": f"scene {index} of {split}",
                }
                latents = ((x - mean) @ components).astype(np.float32)
                shard.write(Record(latents, np.asarray(features)[0, :length], prompt, known))


def train(folder: Path, objective: str) -> tuple[list[dict], float]:
    """Train a stage, or go on with it; the metrics of every validation, and the seconds of all."""
    run = folder / objective
    data = [
        f"--config.data.train={folder / 'train'}",
        f"--config.data.validation={folder / 'heldout'}",
    ]
    command = [
        sys.executable,
        ROOT / "train.py",
        f"--config={RECIPE}:{objective}",
        *data,
        f"--run={run}",
    ]
    subprocess.run([*map(str, command), f"--config.steps={STEPS.value}"], check=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(line.get("step_seconds", 0.0) for line in lines)
    return [line for line in lines if "validation_loss" in line], seconds


def main(_) -> None:
    folder = Path(FOLDER.value)
    make_records(folder)
    rows = []
    curves = []
    for number, objective in enumerate(("flow", "pyramid")):
        lines, seconds = train(folder, objective)
        first = lines[0]
        last = lines[-1]
        losses = []
        for line in lines:
            losses.append({name: line[name] for name in CURVES})
        rows.append(
            {
                "stage": number + 1,
                "steps": last["step"],
                "minutes": seconds / 60,
                "first": first["validation_loss"],
                "last": last["validation_loss"],
                "fall": 1 - last["validation_loss"] / first["validation_loss"],
                "other_captions": last[CURVES[1]] / last[CURVES[0]] - 1,
                "other_histories": last[CURVES[2]] / last[CURVES[0]] - 1,
                "curve": [{"step": line["step"]} | loss for line, loss in zip(lines, losses)],
            }
        )
        for line, loss in zip(lines, losses):
            curves.append({"chunk": line["step"], "video": number} | loss)
    write(rows)
    save_curves(f"{OUT.value}.svg", curves, "step")


def write(rows: list[dict]) -> None:
    """The table and the numbers."""
    cpus = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    conditions = {
        "command": "python benchmarks/learning.py",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{len(os.sched_getaffinity(0))} cores of {cpus[0]}",
        "python": platform.python_version(),
        **{
            package: importlib.metadata.version(package)
            for package in ("jax", "jaxlib", "optax", "grain", "numpy")
        },
        "load average of the last 15 minutes": f"{os.getloadavg()[2]:.1f}; if it is above the "
        "number of cores, minutes are upper bounds",
        "recipe": "configs/train/world.py, every parameter trained from random weights",
        "clips": f"{CLIPS.value} of {33 * SECTIONS} frames of {HEIGHT}x{WIDTH}, and "
        f"{COUNTS['heldout']} of held-out combinations",
    }
    out = Path(OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(
        json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n"
    )
    columns = (
        *("stage", "steps", "minutes", "loss at first", "at last", "fall"),
        *("with other captions", "with other histories"),
    )
    lines = ["# Both stages learn", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append(
            f"| {row['stage']} | {row['steps']} | {row['minutes']:.1f} | {row['first']:.4f} | "
            f"{row['last']:.4f} | {row['fall']:.1%} | {row['other_captions']:+.1%} | "
            f"{row['other_histories']:+.1%} |"
        )
    lines += [
        "",
        "Curves (the first stage red, the second cyan): [learning.svg](learning.svg).",
        "",
        "## Conditions",
        "",
    ]
    lines += [f"* {name}: {value}" for name, value in conditions.items()]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    app.run(main)
