"""Batches of captions of the procedural world with what they say, for a text encoder to learn from.

A caption answers questions: of each colour whether there is an object of it, and its shape, size,
motion and speed; which pattern and which colours are behind; what the camera does. Which captions a
step trains on follows from (seed, step) alone.
"""

import functools
from typing import Literal, NamedTuple

import numpy as np

from helios_jax.data.batches import Batches, DataError, endless_batches
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
OF_A_COLOR = {
    "present": 2,
    "shape": len(SHAPES),
    "size": len(SIZES),
    "motion": len(MOTIONS),
    "speed": len(SPEEDS),
}
"""What is asked of each of :data:`~helios_jax.world.scenes.COLORS`, and how many answers there are."""
OF_THE_SCENE = {"pattern": len(PATTERNS), "camera": len(CAMERAS)} | {
    f"behind {color}": 2 for color in BACKGROUND_COLORS
}
"""What else is asked."""
TOKENIZER_CAPTIONS = 4000
"""From which the tokenizer learns its words."""


class ReadingBatch(NamedTuple):
    """This process's rows of a batch, in numpy.

    Attributes:
      ids, length: the caption's tokens.
      of_colors: answers to the questions of :data:`OF_A_COLOR`, -1 where there are none.
      of_scene: answers to those of :data:`OF_THE_SCENE`.
      sample: (0, number of the scene).
    """

    ids: Int[np.ndarray, "B S"]
    length: Int[np.ndarray, "B"]
    of_colors: Int[np.ndarray, "B colors questions"]
    of_scene: Int[np.ndarray, "B scene_questions"]
    sample: Int[np.ndarray, "B 2"]


def answers(
    scene: Scene,
) -> tuple[Int[np.ndarray, "colors questions"], Int[np.ndarray, "scene_questions"]]:
    """What every caption of a scene says."""
    of_colors = np.full((len(COLORS), len(OF_A_COLOR)), -1, np.int32)
    of_colors[:, 0] = 0
    for thing in scene.objects:
        values = (
            SHAPES.index(thing.shape),
            SIZES.index(thing.size),
            MOTIONS.index(thing.motion),
            SPEEDS.index(thing.speed),
        )
        of_colors[list(COLORS).index(thing.color)] = (1, *values)
    pattern = PATTERNS.index(f"{scene.background.kind} {scene.background.axis}".strip())
    behind = [color in scene.background.colors for color in BACKGROUND_COLORS]
    return of_colors, np.asarray([pattern, list(CAMERAS).index(scene.camera), *behind], np.int32)


@functools.cache
def world_tokenizer() -> Tokenizer:
    """A tokenizer that knows the words of the world; always the same."""
    return word_tokenizer(
        caption(sample_scene(0, number), number) for number in range(TOKENIZER_CAPTIONS)
    )


def load_readings(
    *,
    vocab_size: int,
    text_rows: int,
    batch_size: int,
    seed: int,
    split: Literal["train", "validation"] = "train",
    read_threads: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """The batches of a split, without end.

    Args:
      vocab_size: rows of the encoder's table.
      text_rows: S.
      batch_size: captions of a batch, of all processes together.
      seed: of the scenes.
      split: ``"train"``, or ``"validation"``, whose captions tell of objects such as training never
        shows.
      read_threads: that read ahead.
      process_index, process_count: which rows are this process's.

    Raises:
      DataError: if a batch cannot be shared out, or ``vocab_size`` is too small.
    """
    tokenizer, scenes = world_tokenizer(), "heldout" if split == "validation" else "train"
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"text_encoder.vocab_size={vocab_size} must be at least {tokenizer.vocab_size}, the words of the world"
        )

    def make(numbers: list[int]) -> ReadingBatch:
        drawn = [sample_scene(seed, number, scenes) for number in numbers]
        texts = [clean_prompt(caption(scene, number)) for scene, number in zip(drawn, numbers)]
        of_colors, of_scene = zip(*map(answers, drawn))
        sample = np.asarray([(0, number) for number in numbers], np.uint32)
        return ReadingBatch(
            *tokenizer(texts, text_rows), np.stack(of_colors), np.stack(of_scene), sample
        )

    options = dict(
        batch_size=batch_size,
        read_threads=read_threads,
        process_index=process_index,
        process_count=process_count,
    )
    return endless_batches(
        make,
        [vocab_size, text_rows, seed, split],
        "captions of the procedural world without end",
        **options,
    )
