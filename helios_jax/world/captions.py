"""Captions of scenes: exactly true, in many wordings."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from helios_jax.world.scenes import DIRECTIONS, SPINS, Background, Object, Scene

T = TypeVar("T")

WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "diamond": ("diamond", "rhombus"),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "slow": ("slowly", "gently", "unhurriedly"),
    "fast": ("quickly", "rapidly", "fast"),
    "right": ("to the right", "rightward"),
    "down right": ("down and to the right", "diagonally to the lower right"),
    "down": ("down", "downward"),
    "down left": ("down and to the left", "diagonally to the lower left"),
    "left": ("to the left", "leftward"),
    "up left": ("up and to the left", "diagonally to the upper left"),
    "up": ("up", "upward"),
    "up right": ("up and to the right", "diagonally to the upper right"),
    "bounce vertically": ("bounces up and down",),
    "bounce horizontally": ("bounces from side to side", "bounces left and right"),
    "clockwise": ("clockwise",),
    "counterclockwise": ("counterclockwise", "anticlockwise"),
    "pulse": ("grows and shrinks", "swells and shrinks", "pulses in size"),
}
"""Words for a value; a value that is not here has one word, its own."""
TRAVEL = ("moves", "glides", "travels", "slides")
SPIN = ("spins", "turns", "rotates")
CAMERA_STILL = (
    "The camera stays still.",
    "The camera does not move.",
    "A static camera.",
    "A fixed camera.",
)
CAMERA_PAN = ("The camera pans {}.", "The camera pans to the {}.", "A camera panning {}.")
CAMERA_VERTICAL = ("The camera pans {}.", "The camera pans {}ward.", "A camera panning {}.")
BACKGROUND = {
    "plain": ("a plain {0} background", "a {0} background", "a solid {0} backdrop"),
    "gradient x": (
        "a left-to-right gradient of {0} and {1}",
        "a horizontal gradient between {0} and {1}",
    ),
    "gradient y": (
        "a top-to-bottom gradient of {0} and {1}",
        "a vertical gradient between {0} and {1}",
    ),
    "stripes x": (
        "a pattern of vertical {0} and {1} stripes",
        "a background of vertical stripes in {0} and {1}",
    ),
    "stripes y": (
        "a pattern of horizontal {0} and {1} stripes",
        "a background of horizontal stripes in {0} and {1}",
    ),
    "checker": ("a {0} and {1} checkerboard", "a checkered background of {0} and {1}"),
}
JOINTS = (" and ", ", and ", " while ")


def caption(scene: Scene, seed: int = 0) -> str:
    """One or more sentences that say what a scene shows.

    They name the objects in any order, each with size, colour, shape, motion and speed, the
    background, and the camera's motion.

    Args:
      scene: to be described.
      seed: of the wording.
    """
    rng = np.random.default_rng([seed, 1])
    clauses = [_clause(scene.objects[i], rng) for i in rng.permutation(len(scene.objects))]
    background = _background(scene.background, rng)
    camera = _camera(scene.camera, rng)
    over = _pick(("on", "against", "in front of", "over"), rng)
    joint = _pick(JOINTS, rng)
    together = clauses[0]
    if len(clauses) > 1:
        together = joint.join([", ".join(clauses[:-1]), clauses[-1]])
    apart = " ".join(_sentence(clause) for clause in clauses)
    return _pick(
        (
            f"{_sentence(f'{together}, {over} {background}')} {camera}",
            f"{_sentence(f'{over} {background}, {together}')} {camera}",
            f"{camera} {_sentence(f'{over} {background}, {together}')}",
            f"{apart} {_sentence(f'behind is {background}')} {camera}",
            f"{_sentence(f'there is {background}')} {apart} {camera}",
        ),
        rng,
    )


def _pick(values: Sequence[T], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]


def _word(value: str, rng: np.random.Generator) -> str:
    return _pick(WORDS.get(value, (value,)), rng)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _clause(thing: Object, rng: np.random.Generator) -> str:
    """A noun with its adjectives, its motion and its speed."""
    # The order of these draws decides the wording.
    size = _word(thing.size, rng)
    color = _word(thing.color, rng)
    shape = _word(thing.shape, rng)
    speed = _word(thing.speed, rng)
    verb = ""
    way = _word(thing.motion, rng)
    if thing.motion in DIRECTIONS:
        verb = _pick(TRAVEL, rng)
    elif thing.motion in SPINS:
        verb = _pick(SPIN, rng)
    move = _order(verb, way, speed, rng)
    return f"a {size} {color} {shape} {' '.join(move)}"


def _order(verb: str, way: str, speed: str, rng: np.random.Generator) -> list[str]:
    """Verb, way and speed in an order that English allows; the way may hold the verb."""
    if not verb:
        if speed == "fast":
            return [way, speed]
        return _pick(([way, speed], [speed, way]), rng)
    if speed == "fast":
        return [verb, way, speed]
    return _pick(([verb, way, speed], [speed, verb, way], [verb, speed, way]), rng)


def _background(background: Background, rng: np.random.Generator) -> str:
    colors = [_word(background.colors[i], rng) for i in rng.permutation(len(background.colors))]
    return _pick(BACKGROUND[f"{background.kind} {background.axis}".strip()], rng).format(*colors)


def _camera(camera: str, rng: np.random.Generator) -> str:
    if camera == "still":
        return _pick(CAMERA_STILL, rng)
    return _pick(CAMERA_PAN if camera in ("left", "right") else CAMERA_VERTICAL, rng).format(camera)
