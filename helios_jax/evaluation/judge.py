"""The judge: reads what a clip of the procedural world shows, and scores it against a scene.

It knows the world, its vocabulary and its speeds, but not the scene: each attribute is read among
all values that there are. ``benchmarks/results/judge.md`` holds how often it reads true clips
rightly.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float, Shaped

from helios_jax.evaluation.judge_background import read_background
from helios_jax.evaluation.judge_objects import read_objects
from helios_jax.world.scenes import EDITIONS, Object, Scene, pan

OBJECT_ATTRIBUTES = ("color", "shape", "size", "motion", "speed")
SCENE_ATTRIBUTES = ("count", "background", "background colors", "camera")
ATTRIBUTES = (*OBJECT_ATTRIBUTES, *SCENE_ATTRIBUTES)
DETAIL = 64
"""Pixels of the shorter side that the judge needs; larger frames are made smaller."""


def read_clip(
    frames: Shaped[np.ndarray, "F Y X 3"], fps: int | float = 24, edition: int = 1
) -> Scene:
    """Read what a clip shows.

    Args:
      frames: RGB, uint8 or floating-point from 0 to 1; a second or more. The judge was measured on
        33 frames at 24 a second.
      fps: frames per second.
      edition: of the world, see :data:`~helios_jax.world.scenes.EDITIONS`.

    Returns:
      The scene at the clip's first frame. No phase is read but the background's. An object that
      neither moves, spins nor pulses has the motion "still" and no speed.
    """
    levels = 1 if frames.dtype == np.uint8 else 255
    frames = _soften(_shrink(np.asarray(frames, np.float32) * levels))
    times = np.arange(len(frames)) / fps
    behind = read_background(frames, times)
    objects = read_objects(
        frames, _soften(behind.picture), pan(behind.camera, times), times, EDITIONS[edition]
    )
    return Scene(objects, behind.background, behind.camera)


def score(reading: Scene, scene: Scene) -> dict[str, tuple[bool, ...]]:
    """Which attributes of a scene a clip shows.

    Args:
      reading: of :func:`read_clip`.
      scene: what was asked for. Its objects are matched with those read so that most attributes
        agree; all attributes of an object that was not found are wrong.

    Returns:
      For each of :data:`ATTRIBUTES` whether it is right: one value for each object asked for, or
      one for the scene.
    """
    best = _best_match(reading.objects, scene.objects)
    scores = {}
    for i, name in enumerate(OBJECT_ATTRIBUTES):
        scores[name] = tuple(agreement[i] for agreement in best)
    seen = reading.background
    asked = scene.background
    scores["count"] = (len(reading.objects) == len(scene.objects),)
    scores["background"] = ((seen.kind, seen.axis) == (asked.kind, asked.axis),)
    scores["background colors"] = (sorted(seen.colors) == sorted(asked.colors),)
    scores["camera"] = (reading.camera == scene.camera,)
    return scores


def accuracy(scores: list[dict[str, tuple[bool, ...]]]) -> dict[str, tuple[int, int]]:
    """How many were right, of how many, by attribute and in "all"."""
    counts = {}
    for name in ATTRIBUTES:
        right = sum(sum(each[name]) for each in scores)
        counts[name] = (right, sum(len(each[name]) for each in scores))
    counts["all"] = (
        sum(right for right, _ in counts.values()),
        sum(total for _, total in counts.values()),
    )
    return counts


def interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927)."""
    z = 1.96
    middle = (right + z * z / 2) / (total + z * z)
    width = z * math.sqrt(right * (total - right) / total + z * z / 4) / (total + z * z)
    return max(middle - width, 0.0), min(middle + width, 1.0)


def _best_match(seen: tuple[Object, ...], asked: tuple[Object, ...]) -> list[list[bool]]:
    """For each object asked for, which attributes agree with the object matched with it."""
    candidates = [*seen, *[None] * len(asked)]
    best: list[list[bool]] = []
    most = -1
    for match in itertools.permutations(candidates, len(asked)):
        agreements = [_agree(thing, wanted) for thing, wanted in zip(match, asked)]
        count = sum(map(sum, agreements))
        if count > most:
            best = agreements
            most = count
    return best


def _agree(seen: Object | None, asked: Object) -> list[bool]:
    """Which of :data:`OBJECT_ATTRIBUTES` two objects share."""
    if seen is None:
        return [False] * len(OBJECT_ATTRIBUTES)
    return [getattr(seen, name) == getattr(asked, name) for name in OBJECT_ATTRIBUTES]


def _shrink(frames: Float[np.ndarray, "F Y X 3"]) -> Float[np.ndarray, "F y x 3"]:
    """Average over the largest squares that divide the frame and leave :data:`DETAIL` pixels."""
    count, height, width, _ = frames.shape
    largest = max(min(height, width) // DETAIL, 1)
    side = max(k for k in range(1, largest + 1) if height % k == width % k == 0)
    return frames.reshape(count, height // side, side, width // side, side, 3).mean((2, 4))


def _soften(frames: Float[np.ndarray, "F Y X 3"]) -> Float[np.ndarray, "F Y X 3"]:
    """Blur with the weights 1, 2, 1 in both directions.

    The variance of noise falls to 9/64, and outlines become as soft as those of the templates.
    """
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
