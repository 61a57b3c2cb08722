"""What helios-nano reaches: the judge looks at what it makes of captions that it was never shown.

  python -m helios_jax.evaluation.nano
  python -m helios_jax.evaluation.nano --checkpoint checkpoints/nano-base --parts text,image --prompts 16

Parts, each written as soon as it is done (those that the result file has already are not made
again, unless --overwrite):

  vae      reconstruction of clips of 33 frames; by itself it needs no more than a VAE text
  videos from captions of held-out scenes image    the same, from their first frame video    the
  same, from their first 33 frames long     1449 frames: what changes from the first 15 % of them to
  the last, and how the chunks join speed    seconds a chunk, of the transformer and of all
"""

import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import UInt8
from tqdm import tqdm

from helios_jax import checkpoint, nano
from helios_jax.commands.legacy import run_script
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import ConfigError, SampleConfig, from_dict
from helios_jax.evaluation.judge import ATTRIBUTES, accuracy, interval, read_clip, score
from helios_jax.models.tokenizer import TokenizerError
from helios_jax.models.vae import decode_latents, encode_clip
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import RequestError
from helios_jax.sampling.statistics import save_curves
from helios_jax.sampling.timing import Stopwatch
from helios_jax.world import Scene, caption, render, sample_scene
from helios_jax.world.scenes import EDITIONS, MOTION_KINDS

PIECE = 33
"""Frames that the judge looks at where it looks at chunks."""
SPEED_CHUNKS = 8
"""Chunks of the video that is timed."""
Counts = dict[str, tuple[int, int]]
Frames = UInt8[np.ndarray, "F Y X 3"]


def scenes(count: int) -> list[tuple[int, Scene, str]]:
    """Numbers, scenes and captions, each with an object such as training never shows."""
    drawn = [
        (number, sample_scene(flags.FLAGS.seed, number, "heldout", flags.FLAGS.edition))
        for number in range(count)
    ]
    return [(number, scene, caption(scene, number)) for number, scene in drawn]


def make(
    pipeline: HeliosPipeline,
    count: int,
    label: str,
    num_frames: int,
    source: Callable[[Scene], dict[str, np.ndarray]] = lambda scene: {},
) -> Iterator[tuple[Scene, dict[str, np.ndarray], Frames]]:
    """Videos of held-out scenes, with what each was made from."""
    todo, request = scenes(count), options()
    with tqdm(total=count, desc=label, unit="video", disable=None) as bar:
        for first in range(0, count, flags.FLAGS.batch):
            numbers, batch, prompts = zip(*todo[first : first + flags.FLAGS.batch])
            sources = [source(scene) for scene in batch]
            stacked = {name: np.stack([each[name] for each in sources]) for name in sources[0]}
            videos = pipeline.generate(
                list(prompts),
                num_frames=num_frames,
                seed=flags.FLAGS.seed + numbers[0],
                **stacked,
                **request,
            )
            yield from zip(batch, sources, videos)
            bar.update(len(batch))


def options() -> dict[str, Any]:
    """Steps and guidance that were asked for."""
    steps = (
        {} if flags.FLAGS.steps is None else {"steps": [int(step) for step in flags.FLAGS.steps]}
    )
    return steps | (
        {} if flags.FLAGS.guidance_scale is None else {"guidance_scale": flags.FLAGS.guidance_scale}
    )


def size(pipeline: HeliosPipeline) -> tuple[int, int]:
    return pipeline.config.sample.height, pipeline.config.sample.width


def look_at_vae(pipeline: HeliosPipeline) -> dict[str, Any]:
    """PSNR of clips that are encoded and decoded, and what the judge reads in them."""
    again, found = reconstruction(pipeline), []

    def clips():
        for number, scene, _ in tqdm(
            scenes(flags.FLAGS.prompts), desc="vae", unit="clip", disable=None
        ):
            clip = render(scene, PIECE, *size(pipeline), start=number)
            decoded = again(clip)
            found.append(psnr(decoded, clip))
            yield scene, decoded

    seen = judged(clips(), flags.FLAGS.edition)
    return {"psnr": float(np.mean(found)), "worst psnr": min(found), **seen}


def reconstruction(pipeline: HeliosPipeline) -> Callable[[Frames], Frames]:
    """What is left of a clip of 33 frames that the VAE has encoded, at the posterior's mean, and
    decoded.
    """
    vae, params = pipeline.vae, pipeline.params["vae"]
    decode = jax.jit(lambda params, latents: decode_latents(vae, params, latents))

    def again(clip: Frames) -> Frames:
        shape = (
            1,
            1 + (len(clip) - 1) // 4,
            *(side // vae.config.spatial_factor for side in clip.shape[1:3]),
            vae.config.z_dim,
        )
        pixels = decode(params, encode_clip(vae, params, clip[None], np.zeros(shape, np.float32)))[
            0
        ]
        return np.asarray(np.round((np.asarray(pixels, np.float32) + 1) * 127.5), np.uint8)

    return again


def judged(clips: Iterable[tuple[Scene, Frames]], edition: int = 1) -> dict[str, Counts]:
    """What the judge reads rightly in clips of scenes: each attribute, and each kind of motion."""
    found = [(score(read_clip(frames, edition=edition), scene), scene) for scene, frames in clips]
    motions = [
        (thing.motion, right)
        for scored, scene in found
        for thing, right in zip(scene.objects, scored["motion"])
    ]
    kinds = {
        name: [right for motion, right in motions if motion in kind]
        for name, kind in MOTION_KINDS.items()
    }
    return {
        "attributes": accuracy([scored for scored, _ in found]),
        "motions": {name: (sum(rights), len(rights)) for name, rights in kinds.items()},
    }


def look_at_text(pipeline: HeliosPipeline) -> dict[str, Any]:
    """What the judge reads in videos made from captions."""
    videos = make(pipeline, flags.FLAGS.prompts, "text", flags.FLAGS.frames)
    return judged(((scene, frames) for scene, _, frames in videos), flags.FLAGS.edition)


def look_at_image(pipeline: HeliosPipeline) -> dict[str, Any]:
    """What the judge reads in videos that begin with a picture, and how near their first frame is
    to it.
    """
    picture = lambda scene: {"image": render(scene, 1, *size(pipeline))[0]}
    near = []

    def clips():
        for scene, sources, frames in make(
            pipeline, flags.FLAGS.prompts, "image", flags.FLAGS.frames, picture
        ):
            near.append(psnr(frames[0], sources["image"]))
            yield scene, frames

    seen = judged(clips(), flags.FLAGS.edition)
    return {**seen, "first frame psnr": float(np.mean(near))}


def look_at_video(pipeline: HeliosPipeline) -> dict[str, Any]:
    """Whether objects go on as they did in the frames that are continued."""
    past = lambda scene: {"video": render(scene, PIECE, *size(pipeline))}
    videos = make(pipeline, flags.FLAGS.prompts, "video", PIECE, past)
    return judged(((scene, frames) for scene, _, frames in videos), flags.FLAGS.edition)


def look_at_long(pipeline: HeliosPipeline) -> dict[str, Any]:
    """Statistics of every chunk of long videos, their means at the beginning and at the end, and
    steps from chunk to chunk against those within.
    """
    rows, seams = [], []
    for number, scene, prompt in scenes(flags.FLAGS.long):
        stream = pipeline.stream(
            prompt, num_frames=flags.FLAGS.long_frames, seed=flags.FLAGS.seed + number, **options()
        )
        last = None
        for chunk, frames in enumerate(
            tqdm(
                stream,
                desc=f"long {number}",
                total=math.ceil(flags.FLAGS.long_frames / PIECE),
                disable=None,
            )
        ):
            frames = np.asarray(frames[0])
            right, total = accuracy([score(read_clip(frames, edition=flags.FLAGS.edition), scene)])[
                "all"
            ]
            rows.append(
                {
                    "video": number,
                    "chunk": chunk,
                    **statistics(frames),
                    "right": right,
                    "asked": total,
                }
            )
            if last is not None:
                within = np.median([difference(a, b) for a, b in itertools.pairwise(frames)])
                seams.append(difference(last, frames[0]) / max(within, 1e-6))
            last = frames[-1]
    count = 1 + max(row["chunk"] for row in rows)
    part = max(1, round(0.15 * count))
    first, end = (
        [row for row in rows if row["chunk"] in span]
        for span in (range(part), range(count - part, count))
    )
    mean = lambda part, name: float(np.mean([row[name] for row in part]))
    drift = {
        name: (mean(first, name), mean(end, name))
        for name in statistics(np.zeros((2, 8, 8, 3), np.uint8))
    }
    right = lambda part: (sum(row["right"] for row in part), sum(row["asked"] for row in part))
    return {
        "first": right(first),
        "last": right(end),
        "drift": drift,
        "seam": float(np.median(seams)),
        "rows": rows,
    }


def look_at_speed(pipeline: HeliosPipeline) -> dict[str, Any]:
    """Medians of a chunk's seconds, stage after stage, nothing at the same time; the first chunk
    and whatever is compiled left out.
    """
    [(_, _, prompt)] = scenes(1)
    took = {"transformer": [], "all": []}
    with Stopwatch() as stopwatch:
        stream, before, began = (
            pipeline.stream(
                prompt, num_frames=SPEED_CHUNKS * PIECE, stopwatch=stopwatch, **options()
            ),
            {},
            None,
        )
        for _ in tqdm(stream, desc="speed", total=SPEED_CHUNKS, unit="chunk", disable=None):
            now, seconds = time.perf_counter(), dict(stopwatch.seconds)
            if began is not None and seconds.get("compile") == before.get("compile"):
                stages = [name for name in seconds if name.startswith("stage")]
                took["transformer"].append(
                    sum(seconds[name] - before.get(name, 0) for name in stages)
                )
                took["all"].append(now - began)
            before, began = seconds, now
    return {
        f"seconds a chunk, {what}": float(np.median(values)) for what, values in took.items()
    } | {
        "chunks": len(took["all"]),
        "machine": machine(),
    }


def machine() -> str:
    """What this runs on: the cores that it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} core{'s' if cores != 1 else ''} of {platform.machine()}"


LOOKS = {
    "vae": look_at_vae,
    "text": look_at_text,
    "image": look_at_image,
    "video": look_at_video,
    "long": look_at_long,
    "speed": look_at_speed,
}


def statistics(frames: Frames) -> dict[str, float]:
    """Saturation, each channel's mean and deviation, and sharpness (mean difference of neighbouring
    pixels), all from 0 to 1.
    """
    pixels = frames.astype(np.float32) / 255
    top = pixels.max(-1)
    channels = {f"{colour} {what}": float(value) for i, colour in enumerate(("red", "green", "blue")) for what, value in (
        ("mean", pixels[..., i].mean()), ("deviation", pixels[..., i].std()))}  # fmt: skip
    sharpness = np.abs(np.diff(pixels, axis=1)).mean() + np.abs(np.diff(pixels, axis=2)).mean()
    return {
        "saturation": float(((top - pixels.min(-1)) / np.maximum(top, 1e-3)).mean()),
        **channels,
        "sharpness": float(sharpness),
    }


def difference(a: UInt8[np.ndarray, "Y X 3"], b: UInt8[np.ndarray, "Y X 3"]) -> float:
    """Mean difference of two frames, in levels of 255."""
    return float(np.abs(a.astype(np.float32) - b).mean())


def psnr(frames: UInt8[np.ndarray, "*F Y X 3"], truth: UInt8[np.ndarray, "*F Y X 3"]) -> float:
    """Peak signal-to-noise ratio, dB."""
    return float(
        10 * np.log10(255**2 / max(np.mean((frames.astype(np.float64) - truth) ** 2), 1e-9))
    )


def table(results: dict[str, Any]) -> list[str]:
    """The results as lines of Markdown."""
    percent = lambda counts: f"{counts[0] / counts[1]:.1%}" if counts[1] else "-"
    names = [*ATTRIBUTES, "all"]
    lines = [
        f"| part | {' | '.join(names)} | 95 % interval of all |",
        f"|---|{'---|' * len(names)}---|",
    ]
    for part, found in results.items():
        if counts := found.get("attributes"):
            low, high = interval(*counts["all"])
            lines.append(
                f"| {part} | {' | '.join(percent(counts[name]) for name in names)} | {low:.1%} to {high:.1%} |"
            )
    lines.append("")
    for part, found in results.items():
        if kinds := found.get("motions"):
            lines.append(
                f"* {part}: motions by kind: {', '.join(f'{name} {percent(counts)}' for name, counts in kinds.items())}"
            )
    if found := results.get("vae"):
        lines.append(f"* VAE: {found['psnr']:.1f} dB, at worst {found['worst psnr']:.1f} dB")
    if found := results.get("image"):
        lines.append(
            f"* image: the first frame is {found['first frame psnr']:.1f} dB from the picture"
        )
    if found := results.get("long"):
        lines.append(
            f"* long: {percent(found['first'])} right in the first 15 %, {percent(found['last'])} in the last"
        )
        lines.append(f"* long: a step from chunk to chunk is {found['seam']:.2f} times one within")
        lines += [
            f"* long: {name} {first:.3f}, then {last:.3f}"
            for name, (first, last) in found["drift"].items()
        ]
    if found := results.get("speed"):
        transformer, whole = (found[f"seconds a chunk, {what}"] for what in ("transformer", "all"))
        lines.append(
            f"* {transformer:.2f} s a chunk in the transformer, {whole:.2f} s in all, on {found['machine']}"
        )
    return lines


def main() -> None:
    """Look at every part that is not there yet; write the results."""
    if unknown := set(flags.FLAGS.parts) - set(LOOKS):
        raise RequestError(
            f"--parts: there is no {', '.join(sorted(unknown))}, only {', '.join(LOOKS)}"
        )
    use_compile_cache()
    load = (
        HeliosPipeline.for_decoding
        if flags.FLAGS.parts == ["vae"]
        else HeliosPipeline.from_checkpoint
    )
    pipeline = load(flags.FLAGS.checkpoint)
    if flags.FLAGS.guidance_interval is not None:
        sample = dataclasses.asdict(pipeline.config.sample) | {
            "guidance_interval": [float(level) for level in flags.FLAGS.guidance_interval]
        }
        pipeline.config = dataclasses.replace(
            pipeline.config, sample=from_dict(SampleConfig, sample, "sample")
        )
    conditions = {
        "checkpoint": os.path.basename(os.path.normpath(flags.FLAGS.checkpoint)),
        "request": dataclasses.asdict(pipeline.config.sample) | options(),
        "prompts": flags.FLAGS.prompts,
        "frames": flags.FLAGS.frames,
        "batch": flags.FLAGS.batch,  # the noise of a video depends on its place in it
        "seed": flags.FLAGS.seed,
        "edition": flags.FLAGS.edition,
    }
    out = Path(flags.FLAGS.out)
    path, results = out.with_name(f"{out.name}.json"), {}
    if path.exists() and not flags.FLAGS.overwrite:
        there = json.loads(path.read_text(encoding="utf-8"))
        if {**there["conditions"], **json.loads(json.dumps(conditions))} != there["conditions"]:
            raise RequestError(
                f"{path} holds results made under other conditions: name another --out, or --overwrite"
            )
        results = there["results"]
    conditions |= {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        **{package: importlib.metadata.version(package) for package in ("jax", "numpy")},
    }
    for part in flags.FLAGS.parts:
        if part not in results:
            results[part] = LOOKS[part](pipeline)
            path.write_text(
                json.dumps({"conditions": conditions, "results": results}, indent=1) + "\n",
                encoding="utf-8",
            )
    lines = ["# helios-nano before the judge", "", *table(results)]
    if "long" in results:
        curves = out.with_name(f"{out.name}_long.svg")
        lines += [
            "",
            f"Chunk after chunk of the long videos, one colour each: [{curves.name}]({curves.name}).",
        ]
        save_curves(
            curves,
            [
                {name: row[name] for name in row if name != "asked"}
                | {"right": row["right"] / row["asked"]}
                for row in results["long"]["rows"]
            ],
        )
    lines += ["", "## Conditions", ""]
    lines += [f"* {name}: {value}" for name, value in conditions.items()]
    out.with_name(f"{out.name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(table(results)))


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint",
        str(nano.CHECKPOINT),
        "Checkpoint directory; by default the one that ships with the package.",
    )
    flags.DEFINE_list("parts", list(LOOKS), "What to look at.")
    flags.DEFINE_integer("prompts", 64, "Scenes of every part but long and speed.", lower_bound=1)
    flags.DEFINE_integer("frames", 99, "Frames of the videos of text and image.", lower_bound=33)
    flags.DEFINE_integer("long", 2, "Videos of the part long.", lower_bound=1)
    flags.DEFINE_integer("long_frames", 1449, "Frames of each.", lower_bound=33 * 7)
    flags.DEFINE_integer("batch", 4, "Videos made at once.", lower_bound=1)
    flags.DEFINE_list("steps", None, "Solver steps of each stage; by default the checkpoint's.")
    flags.DEFINE_float("guidance_scale", None, "By default the checkpoint's.")
    flags.DEFINE_list(
        "guidance_interval",
        None,
        "Least and greatest noise level of the steps with guidance; by default the checkpoint's.",
    )
    flags.DEFINE_integer("seed", 2000, "Of scenes and noise.")
    flags.DEFINE_integer(
        "edition",
        1,
        "Of the world: how large and fast things are.",
        lower_bound=1,
        upper_bound=len(EDITIONS),
    )
    flags.DEFINE_string(
        "out", "nano", "Result files, without .json, .md and, of the part long, _long.svg."
    )
    flags.DEFINE_bool("overwrite", False, "Make every part anew.")
    run_script(
        main, (ConfigError, RequestError, TokenizerError, checkpoint.CheckpointError, OSError)
    )
