"""Batches of captions of the procedural world with what they say, for a text encoder to learn from.

A caption answers questions: of each colour whether there is an object of it, and its shape, size,
motion and speed; the pattern and the colours of the background; the camera's pan. Which captions a
step trains on follows from (seed, step) alone.
"""

import functools
from typing import Literal, NamedTuple

import numpy as np

from helios_jax.data.errors import DataError
from helios_jax.data.loading import Batches, LoaderOptions, endless_batches
from helios_jax.models.tokenizer import Tokenizer, clean_prompt, word_tokenizer
from helios_jax.types import Int
from helios_jax.world.captions import caption
from helios_jax.world.scenes import (
    BACKGROUND_COLORS,
    BACKGROUNDS,
    CAMERAS,
    COLORS,
    MOTIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    Scene,
    sample_scene,
)

PATTERNS = tuple(f"{kind} {axis}".strip() for kind, axes in BACKGROUNDS.items() for axis in axes)
OBJECT_QUESTIONS = {
    "present": 2,
    "shape": len(SHAPES),
    "size": len(SIZES),
    "motion": len(MOTIONS),
    "speed": len(SPEEDS),
}
"""Questions about the object of each of :data:`~helios_jax.world.scenes.COLORS`: their classes."""
SCENE_QUESTIONS = {"pattern": len(PATTERNS), "camera": len(CAMERAS)} | {
    f"behind {color}": 2 for color in BACKGROUND_COLORS
}
"""Questions about the background and the camera: their classes."""
TOKENIZER_CAPTIONS = 4000
"""Captions that the tokenizer learns its words from."""


class ReadingBatch(NamedTuple):
    """This process's rows of a batch, in numpy.

    Attributes:
      ids, length: the caption's tokens.
      objects: labels for :data:`OBJECT_QUESTIONS`, -1 where there is no object of a colour.
      scene: labels for :data:`SCENE_QUESTIONS`.
      sample: (0, number of the scene).
    """

    ids: Int[np.ndarray, "B S"]
    length: Int[np.ndarray, "B"]
    objects: Int[np.ndarray, "B colors questions"]
    scene: Int[np.ndarray, "B scene_questions"]
    sample: Int[np.ndarray, "B 2"]


def answers(
    scene: Scene,
) -> tuple[Int[np.ndarray, "colors questions"], Int[np.ndarray, "scene_questions"]]:
    """Labels for the questions, which every caption of a scene answers."""
    objects = np.full((len(COLORS), len(OBJECT_QUESTIONS)), -1, np.int32)
    objects[:, 0] = 0
    for thing in scene.objects:
        objects[list(COLORS).index(thing.color)] = (
            1,
            SHAPES.index(thing.shape),
            SIZES.index(thing.size),
            MOTIONS.index(thing.motion),
            SPEEDS.index(thing.speed),
        )
    pattern = PATTERNS.index(f"{scene.background.kind} {scene.background.axis}".strip())
    camera = list(CAMERAS).index(scene.camera)
    behind = [color in scene.background.colors for color in BACKGROUND_COLORS]
    return objects, np.asarray([pattern, camera, *behind], np.int32)


@functools.cache
def world_tokenizer() -> Tokenizer:
    """A tokenizer that knows the words of the world; always the same."""
    return word_tokenizer(
        caption(sample_scene(0, number), number) for number in range(TOKENIZER_CAPTIONS)
    )


def load_readings(
    options: LoaderOptions,
    *,
    vocab_size: int,
    text_rows: int,
    seed: int,
    split: Literal["train", "validation"] = "train",
) -> Batches[ReadingBatch]:
    """The batches of a split, without end.

    Args:
      options: captions of a batch, threads, and which rows are this process's.
      vocab_size: rows of the encoder's table.
      text_rows: S.
      seed: of the scenes.
      split: ``"train"``, or ``"validation"``, whose captions tell of objects that training never
        shows.

    Raises:
      DataError: if ``vocab_size`` is too small.
    """
    tokenizer = world_tokenizer()
    scenes = "heldout" if split == "validation" else "train"
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"text_encoder.vocab_size={vocab_size} must be at least {tokenizer.vocab_size}, the "
            "words of the world"
        )

    def make(numbers: list[int]) -> ReadingBatch:
        drawn = [sample_scene(seed, number, scenes) for number in numbers]
        texts = [clean_prompt(caption(scene, number)) for scene, number in zip(drawn, numbers)]
        ids, length = tokenizer(texts, text_rows)
        labels = [answers(scene) for scene in drawn]
        return ReadingBatch(
            ids,
            length,
            np.stack([objects for objects, _ in labels]),
            np.stack([scene for _, scene in labels]),
            np.asarray([(0, number) for number in numbers], np.uint32),
        )

    determinants = [vocab_size, text_rows, seed, split]
    description = "captions of the procedural world without end"
    return endless_batches(make, determinants, description, options)
