"""The judge: reads from a clip of the procedural world what it shows, and says which attributes of
a scene it shows rightly.

It knows the world, its vocabulary and its speeds, never the answer: each attribute is read among
all values that there are. How often it reads true clips rightly is in
``benchmarks/results/judge.md``.
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
"""Pixels of the shorter side that are enough to read; larger frames are made smaller."""


def read_clip(
    frames: Shaped[np.ndarray, "F Y X 3"], fps: int | float = 24, edition: int = 1
) -> Scene:
    """See what a clip shows.

    Args:
      frames: RGB, uint8 or floating-point from 0 to 1; a second or more (33 frames at 24 a second
        are what the judge was measured on).
      fps: frames per second.
      edition: of the world, see :data:`~helios_jax.world.scenes.EDITIONS`.

    Returns:
      The scene, as it is at the clip's first frame. Phases are not read, but for the background's;
      an object that neither moves, spins nor pulses has the motion "still" and no speed.
    """
    frames = _soften(
        _smaller(np.asarray(frames, np.float32) * (1 if frames.dtype == np.uint8 else 255))
    )
    times = np.arange(len(frames)) / fps
    behind = read_background(frames, times)
    objects = read_objects(
        frames, _soften(behind.picture), pan(behind.camera, times), times, EDITIONS[edition]
    )
    return Scene(objects, behind.background, behind.camera)


def score(reading: Scene, scene: Scene) -> dict[str, tuple[bool, ...]]:
    """Which attributes were read as they were asked for.

    Args:
      reading: of :func:`read_clip`.
      scene: what was asked for. Its objects are matched with those read so that most attributes
        agree; one that was not found is wrong throughout.

    Returns:
      For each of :data:`ATTRIBUTES` whether it is right: one value for each object asked for, or
      one for the scene.
    """
    missing = [None] * len(scene.objects)
    pairings = itertools.permutations([*reading.objects, *missing], len(scene.objects))
    agreements = (
        [_agree(seen, thing) for seen, thing in zip(pairing, scene.objects)] for pairing in pairings
    )
    best = max(agreements, key=lambda agreement: sum(map(sum, agreement)))
    kind, colors = (lambda each: (each.kind, each.axis)), (lambda each: sorted(each.colors))
    return {
        **{name: tuple(each[i] for each in best) for i, name in enumerate(OBJECT_ATTRIBUTES)},
        "count": (len(reading.objects) == len(scene.objects),),
        "background": (kind(reading.background) == kind(scene.background),),
        "background colors": (colors(reading.background) == colors(scene.background),),
        "camera": (reading.camera == scene.camera,),
    }


def accuracy(scores: list[dict[str, tuple[bool, ...]]]) -> dict[str, tuple[int, int]]:
    """How many were right, of how many, by attribute and in "all"."""
    counts = {name: [right for each in scores for right in each[name]] for name in ATTRIBUTES}
    counts["all"] = [right for rights in counts.values() for right in rights]
    return {name: (sum(rights), len(rights)) for name, rights in counts.items()}


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    middle, width = (
        (right + z * z / 2) / (total + z * z),
        z * math.sqrt(right * (total - right) / total + z * z / 4) / (total + z * z),
    )
    return max(middle - width, 0.0), min(middle + width, 1.0)


def _agree(seen: Object | None, thing: Object) -> list[bool]:
    return [
        seen is not None and getattr(seen, name) == getattr(thing, name)
        for name in OBJECT_ATTRIBUTES
    ]


def _smaller(frames: Float[np.ndarray, "F Y X 3"]) -> Float[np.ndarray, "F y x 3"]:
    """Averaged over squares, as large ones as divide the frame and leave enough detail."""
    count, height, width, _ = frames.shape
    side = max(
        k
        for k in range(1, max(min(height, width) // DETAIL, 1) + 1)
        if height % k == width % k == 0
    )
    return frames.reshape(count, height // side, side, width // side, side, 3).mean((2, 4))


def _soften(frames: Float[np.ndarray, "F Y X 3"]) -> Float[np.ndarray, "F Y X 3"]:
    """Weights 1, 2, 1 in both directions: noise falls to three eighths, and outlines have the
    softness that the judge's templates have.
    """
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
