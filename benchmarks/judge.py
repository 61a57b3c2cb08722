"""How often the judge reads clips of the procedural world rightly.

  python benchmarks/judge.py                  # a quarter of an hour on a laptop
  python benchmarks/judge.py --clips 20

Clips are true ones, and ones damaged as models, files and a VAE damage them. Half of them have
held-out objects. Each begins at a random moment of the first two minutes of its scene. The judge is
given frames, never the scene.
"""

import datetime
import functools
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from tqdm import tqdm

from helios_jax import nano
from helios_jax.compile_cache import use_compile_cache
from helios_jax.evaluation.judge import ATTRIBUTES, accuracy, interval, read_clip, score
from helios_jax.evaluation.nano import reconstruction
from helios_jax.media import open_video_writer, read_video
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.world import SPLITS, render, sample_scene

CLIPS = flags.DEFINE_integer("clips", 100, "Clips for each damage.", lower_bound=2)
FRAMES = flags.DEFINE_integer(
    "frames", 33, "Frames of a clip; files are read from 33 on.", lower_bound=33
)
SEED = flags.DEFINE_integer("seed", 1000, "Of scenes, beginnings and noise.")
EDITION = flags.DEFINE_integer("edition", 1, "Of the world.")
OUT = flags.DEFINE_string(
    "out", str(Path(__file__).parent / "results/judge"), "Result files, without .json and .md."
)


def noise(sigma: float) -> Callable:
    """Gaussian, of ``sigma`` out of 255."""
    return lambda clip, rng: np.clip(
        np.round(clip + sigma * rng.standard_normal(clip.shape)), 0, 255
    ).astype(np.uint8)


def blur(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of sigma 1 pixel."""
    weights = np.exp(-np.square(np.arange(-3, 4)) / 2)
    weights /= weights.sum()
    clip = clip.astype(float)
    for axis in (1, 2):
        padded = np.pad(clip, [(3, 3) if i == axis else (0, 0) for i in range(4)], mode="edge")
        clip = sum(
            weight * np.take(padded, np.arange(i, i + clip.shape[axis]), axis)
            for i, weight in enumerate(weights)
        )
    return np.round(clip).astype(np.uint8)


def h264(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Written as an mp4 and read again."""
    with tempfile.TemporaryDirectory() as folder:
        with open_video_writer(Path(folder, "clip.mp4"), 24) as writer:
            writer.write(clip)
        return read_video(
            Path(folder, "clip.mp4"), *clip.shape[1:3], 24, piece=len(clip), pieces=1
        ).tail


def faded(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A fifth of the colour and a tenth of the contrast lost."""
    clip = clip.astype(float)
    gray = clip.mean(-1, keepdims=True)
    return np.round(12 + 0.9 * (gray + 0.8 * (clip - gray))).astype(np.uint8)


@functools.cache
def nano_vae() -> Callable:
    """The VAE that ships with the package."""
    return reconstruction(HeliosPipeline.for_decoding(nano.CHECKPOINT))


CONDITIONS = {
    "true": ((64, 128), lambda clip, rng: clip),
    "true, 128x128": ((128, 128), lambda clip, rng: clip),
    "noise, sigma 10/255": ((64, 128), noise(10)),
    "noise, sigma 25/255": ((64, 128), noise(25)),
    "blur, sigma 1 pixel": ((64, 128), blur),
    "H.264, crf 18": ((64, 128), h264),
    "faded": ((64, 128), faded),
    "through helios-nano's VAE": ((64, 128), lambda clip, rng: nano_vae()(clip)),
}
"""Height and width of the clips, and the damage that is done to them."""


def measure(size: tuple[int, int], damage: Callable) -> tuple[dict, dict, float]:
    """Read clips with one damage.

    Returns:
      Counts (right, of how many) by attribute; those of all attributes by the number of objects;
      and the processor time of a reading, in seconds.
    """
    rng = np.random.default_rng(SEED.value)
    scores = []
    seconds = 0.0
    for index in tqdm(range(CLIPS.value), leave=False):
        scene = sample_scene(SEED.value, index, SPLITS[index % 2], EDITION.value)
        clip = damage(render(scene, FRAMES.value, *size, start=int(rng.integers(2 * 60 * 24))), rng)
        begun = time.process_time()
        reading = read_clip(clip, edition=EDITION.value)
        seconds += time.process_time() - begun
        scores.append((len(scene.objects), score(reading, scene)))
    by_number = {}
    for number in (1, 2, 3):
        of_number = [each for count, each in scores if count == number]
        by_number[number] = accuracy(of_number)["all"]
    return accuracy([each for _, each in scores]), by_number, seconds / CLIPS.value


def main(argv: list[str]) -> None:
    """Read clips with every damage; write both files."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    use_compile_cache()
    results = {}
    for name, (size, damage) in CONDITIONS.items():
        attributes, numbers, seconds = measure(size, damage)
        results[name] = {"attributes": attributes, "objects": numbers, "seconds": round(seconds, 3)}
        print(name, attributes["all"], numbers, f"{seconds:.2f} s", flush=True)
    conditions = describe_conditions(results)
    page = markdown(results, conditions)
    text = json.dumps({"conditions": conditions, "results": results}, indent=2) + "\n"
    Path(f"{OUT.value}.json").write_text(text, encoding="utf-8")
    Path(f"{OUT.value}.md").write_text(page, encoding="utf-8")
    print(page)


def percent(counts: tuple[int, int]) -> str:
    right, total = counts
    return f"{right / total:.1%}" if total else "-"


def markdown(results: dict, conditions: dict) -> str:
    """The results as tables."""
    names = [*ATTRIBUTES, "all"]
    lines = [
        "# How often the judge reads true and damaged clips rightly",
        "",
        f"`{' '.join(['python benchmarks/judge.py', *sys.argv[1:]])}`",
        "",
    ]
    lines += [
        f"| clips | {' | '.join(names)} | 95 % interval of all |",
        f"|---|{'---|' * len(names)}---|",
    ]
    for name, result in results.items():
        counts = result["attributes"]
        low, high = interval(*counts["all"])
        cells = " | ".join(percent(counts[each]) for each in names)
        lines.append(f"| {name} | {cells} | {low:.1%} to {high:.1%} |")
    lines += [
        "",
        "All attributes, by number of objects:",
        "",
        "| clips | one | two | three |",
        "|---|---|---|---|",
    ]
    for name, result in results.items():
        cells = " | ".join(map(percent, result["objects"].values()))
        lines.append(f"| {name} | {cells} |")
    lines += ["", "## Conditions", ""]
    lines += [f"* {name}: {value}" for name, value in conditions.items()]
    return "\n".join([*lines, ""])


def describe_conditions(results: dict) -> dict:
    """What the results depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "clips": f"{CLIPS.value} a line, {FRAMES.value} frames at 24 a second, 64x128 pixels "
        f"unless the line says otherwise; seed {SEED.value}",
        "edition of the world": EDITION.value,
        "scenes": "half of the training split, half held-out; each clip begins at a random frame "
        "of the first 2880",
        "faded": "a fifth of the colour and a tenth of the contrast lost",
        "processor time of a reading": ", ".join(
            f"{name} {result['seconds']:.2f} s" for name, result in results.items()
        ),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
    }


if __name__ == "__main__":
    app.run(main)
