"""What a model of the procedural world reaches: the judge reads what it makes of new captions.

Every caption has an object that training never shows. Parts:

  vae      reconstruction of clips of 33 frames; by itself it needs no more than a VAE
  text     videos from captions of held-out scenes
  image    the same, from their first frame
  video    the same, from their first 33 frames
  long     1449 frames: what changes from the first 15 % of them to the last, and how chunks join
  speed    seconds a chunk, of the transformer and of all
"""

import dataclasses
import itertools
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np

from helios_jax.devices import cpu_cores
from helios_jax.evaluation.judge import accuracy, read_clip, score
from helios_jax.evaluation.measures import Frames, frame_difference, psnr, statistics
from helios_jax.models.vae import decode_latents, encode_clip
from helios_jax.progress import Progress, track
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import Request, RequestFields, read_request
from helios_jax.sampling.timing import Stopwatch
from helios_jax.world.captions import caption
from helios_jax.world.drawing import render
from helios_jax.world.scenes import MOTION_KINDS, Scene, sample_scene

CHUNK = 33
"""Frames of a chunk, which the judge reads alone."""
SPEED_CHUNKS = 8
"""Chunks of the video that is timed."""
ENDS = 0.15
"""Share of a long video's chunks that count as its beginning, and as its end."""

Counts = dict[str, tuple[int, int]]
"""How many were right, of how many, by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated.

    Attributes:
      prompts: scenes of every part but long and speed.
      frames: of the videos of text and image.
      long_videos, long_frames: videos of the part long, and frames of each.
      batch: videos made at once; the noise of a video depends on its place in the batch.
      sampling: fields of the request that are not the checkpoint's.
      seed: of scenes and noise.
      edition: of the world, see :data:`~helios_jax.world.scenes.EDITIONS`.
    """

    prompts: int = 64
    frames: int = 99
    long_videos: int = 2
    long_frames: int = 1449
    batch: int = 4
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 2000
    edition: int = 1

    def request(self, pipeline: HeliosPipeline, **fields: Unpack[RequestFields]) -> Request:
        """A request of ``pipeline``, sampled as the configuration says."""
        return read_request(pipeline.config, {**self.sampling, **fields})


class HeldOutScene(NamedTuple):
    """A scene with an object that training never shows."""

    number: int
    scene: Scene
    caption: str


class Sample(NamedTuple):
    """A video, the scene it was asked for, and the picture or clip it was made from."""

    scene: Scene
    source: dict[str, np.ndarray]
    frames: Frames


def evaluate_vae(pipeline: HeliosPipeline, config: EvaluationConfig) -> dict[str, Any]:
    """PSNR of clips that are encoded and decoded, and what the judge reads in them."""
    reconstruct = reconstruction(pipeline)
    found: list[float] = []

    def clips() -> Iterator[tuple[Scene, Frames]]:
        scenes = held_out_scenes(config, config.prompts)
        for number, scene, _ in track(scenes, "vae", unit="clips"):
            clip = render(scene, CHUNK, *_size(pipeline), start=number)
            decoded = reconstruct(clip)
            found.append(psnr(decoded, clip))
            yield scene, decoded

    seen = judge_clips(clips(), config.edition)
    return {"psnr": float(np.mean(found)), "worst psnr": min(found), **seen}


def evaluate_text(pipeline: HeliosPipeline, config: EvaluationConfig) -> dict[str, Any]:
    """What the judge reads in videos made from captions."""
    videos = generate(pipeline, config, "text", config.frames)
    return judge_clips(((video.scene, video.frames) for video in videos), config.edition)


def evaluate_image(pipeline: HeliosPipeline, config: EvaluationConfig) -> dict[str, Any]:
    """What the judge reads in videos that begin with a picture, and their first frames' PSNR."""
    found: list[float] = []

    def picture(scene: Scene) -> dict[str, np.ndarray]:
        return {"image": render(scene, 1, *_size(pipeline))[0]}

    def clips() -> Iterator[tuple[Scene, Frames]]:
        for video in generate(pipeline, config, "image", config.frames, picture):
            found.append(psnr(video.frames[0], video.source["image"]))
            yield video.scene, video.frames

    seen = judge_clips(clips(), config.edition)
    return {**seen, "first frame psnr": float(np.mean(found))}


def evaluate_video(pipeline: HeliosPipeline, config: EvaluationConfig) -> dict[str, Any]:
    """What the judge reads in the chunk that follows a clip."""

    def clip(scene: Scene) -> dict[str, np.ndarray]:
        return {"video": render(scene, CHUNK, *_size(pipeline))}

    videos = generate(pipeline, config, "video", CHUNK, clip)
    return judge_clips(((video.scene, video.frames) for video in videos), config.edition)


def evaluate_long(pipeline: HeliosPipeline, config: EvaluationConfig) -> dict[str, Any]:
    """Statistics of every chunk of long videos.

    Returns:
      Their means at the beginning and at the end, what the judge reads there, and the median over
      all seams of the difference across it over the median difference within the next chunk.
    """
    rows: list[dict[str, Any]] = []
    seams: list[float] = []
    for scene in held_out_scenes(config, config.long_videos):
        last = None
        for chunk, frames in enumerate(_stream_long(pipeline, config, scene)):
            right, total = _judge_chunk(frames, scene.scene, config.edition)
            place = {"video": scene.number, "chunk": chunk}
            rows.append({**place, **statistics(frames), "right": right, "asked": total})
            if last is not None:
                steps = [frame_difference(a, b) for a, b in itertools.pairwise(frames)]
                seams.append(frame_difference(last, frames[0]) / max(np.median(steps), 1e-6))
            last = frames[-1]
    return {**_compare_ends(rows), "seam": float(np.median(seams)), "rows": rows}


def evaluate_speed(pipeline: HeliosPipeline, config: EvaluationConfig) -> dict[str, Any]:
    """Medians of a chunk's seconds, one stage after another, nothing at the same time.

    The first chunk is left out, and so is every chunk in which something is compiled.
    """
    [scene] = held_out_scenes(config, 1)
    took: dict[str, list[float]] = {"transformer": [], "all": []}
    with Stopwatch() as stopwatch:
        request = config.request(pipeline, num_frames=SPEED_CHUNKS * CHUNK)
        stream = pipeline.stream(scene.caption, request, stopwatch=stopwatch)
        before: dict[str, float] = {}
        began = None
        for _ in track(stream, "speed", total=SPEED_CHUNKS, unit="chunks"):
            now = time.perf_counter()
            seconds = dict(stopwatch.seconds)
            if began is not None and seconds.get("compile") == before.get("compile"):
                stages = [name for name in seconds if name.startswith("stage")]
                spent = sum(seconds[name] - before.get(name, 0) for name in stages)
                took["transformer"].append(spent)
                took["all"].append(now - began)
            before = seconds
            began = now
    medians = {f"seconds a chunk, {name}": float(np.median(took[name])) for name in took}
    return medians | {"chunks": len(took["all"]), "machine": machine()}


PARTS: dict[str, Callable[[HeliosPipeline, EvaluationConfig], dict[str, Any]]] = {
    "vae": evaluate_vae,
    "text": evaluate_text,
    "image": evaluate_image,
    "video": evaluate_video,
    "long": evaluate_long,
    "speed": evaluate_speed,
}
"""What can be evaluated."""


def held_out_scenes(config: EvaluationConfig, count: int) -> list[HeldOutScene]:
    """The first scenes of the series, with their captions."""
    scenes = []
    for number in range(count):
        scene = sample_scene(config.seed, number, "heldout", config.edition)
        scenes.append(HeldOutScene(number, scene, caption(scene, number)))
    return scenes


def generate(
    pipeline: HeliosPipeline,
    config: EvaluationConfig,
    label: str,
    num_frames: int,
    source: Callable[[Scene], dict[str, np.ndarray]] = lambda scene: {},
) -> Iterator[Sample]:
    """Videos of held-out scenes.

    Args:
      pipeline, config: what makes them, and how.
      label: of the progress bar.
      num_frames: of each.
      source: of a scene, the ``image`` or the ``video`` that its video is made from.
    """
    scenes = held_out_scenes(config, config.prompts)
    with Progress(label, total=len(scenes), unit="videos") as progress:
        for first in range(0, len(scenes), config.batch):
            batch = scenes[first : first + config.batch]
            sources = [source(each.scene) for each in batch]
            stacked: dict[str, Any] = {}
            for name in sources[0]:
                stacked[name] = np.stack([each[name] for each in sources])
            request = config.request(
                pipeline,
                batch=len(batch),
                num_frames=num_frames,
                seed=config.seed + batch[0].number,
            )
            videos = pipeline.generate(
                [each.caption for each in batch],
                request,
                image=stacked.get("image"),
                video=stacked.get("video"),
            )
            for each, given, frames in zip(batch, sources, videos):
                yield Sample(each.scene, given, frames)
            progress.update(len(batch))


def judge_clips(clips: Iterable[tuple[Scene, Frames]], edition: int = 1) -> dict[str, Counts]:
    """What the judge reads rightly in clips of scenes.

    Returns:
      Counts by attribute under "attributes", and by kind of motion under "motions".
    """
    scores = []
    motions: dict[str, list[bool]] = {kind: [] for kind in MOTION_KINDS}
    for scene, frames in clips:
        scored = score(read_clip(frames, edition=edition), scene)
        scores.append(scored)
        for thing, right in zip(scene.objects, scored["motion"]):
            motions[_motion_kind(thing.motion)].append(right)
    return {
        "attributes": accuracy(scores),
        "motions": {kind: (sum(rights), len(rights)) for kind, rights in motions.items()},
    }


def reconstruction(pipeline: HeliosPipeline) -> Callable[[Frames], Frames]:
    """A function that encodes a clip of 33 frames, to the posterior's mean, and decodes it."""
    vae = pipeline.vae
    params = pipeline.params["vae"]
    decode = jax.jit(lambda params, latents: decode_latents(vae, params, latents))

    def reconstruct(clip: Frames) -> Frames:
        rows, columns = (side // vae.config.spatial_factor for side in clip.shape[1:3])
        shape = (1, 1 + (len(clip) - 1) // 4, rows, columns, vae.config.z_dim)
        latents = encode_clip(vae, params, clip[None], np.zeros(shape, np.float32))
        pixels = np.asarray(decode(params, latents)[0], np.float32)
        return np.asarray(np.round((pixels + 1) * 127.5), np.uint8)

    return reconstruct


def machine() -> str:
    """What this runs on: the cores that it may use."""
    cores = cpu_cores()
    return f"{cores} core{'s' if cores != 1 else ''} of {platform.machine()}"


def _size(pipeline: HeliosPipeline) -> tuple[int, int]:
    return pipeline.config.sample.height, pipeline.config.sample.width


def _motion_kind(motion: str) -> str:
    return next(kind for kind, motions in MOTION_KINDS.items() if motion in motions)


def _stream_long(
    pipeline: HeliosPipeline, config: EvaluationConfig, scene: HeldOutScene
) -> Iterator[Frames]:
    """The chunks of a long video."""
    request = config.request(
        pipeline, num_frames=config.long_frames, seed=config.seed + scene.number
    )
    stream = pipeline.stream(scene.caption, request)
    chunks = math.ceil(config.long_frames / CHUNK)
    for frames in track(stream, f"long {scene.number}", total=chunks, unit="chunks"):
        yield np.asarray(frames[0])


def _judge_chunk(frames: Frames, scene: Scene, edition: int) -> tuple[int, int]:
    """How many attributes the judge reads rightly in a chunk, of how many."""
    return accuracy([score(read_clip(frames, edition=edition), scene)])["all"]


def _compare_ends(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the judge reads, and the means of all statistics, at the beginnings and at the ends."""
    count = 1 + max(row["chunk"] for row in rows)
    part = max(1, round(ENDS * count))
    first = [row for row in rows if row["chunk"] < part]
    last = [row for row in rows if row["chunk"] >= count - part]
    names = [name for name in rows[0] if name not in ("video", "chunk", "right", "asked")]
    return {
        "first": _counts(first),
        "last": _counts(last),
        "drift": {name: (_mean(first, name), _mean(last, name)) for name in names},
    }


def _counts(rows: list[dict[str, Any]]) -> tuple[int, int]:
    return sum(row["right"] for row in rows), sum(row["asked"] for row in rows)


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
