"""Captions of scenes: exactly true, and worded in many ways."""

import numpy as np

from helios_jax.world.scenes import DIRECTIONS, SPINS, Background, Object, Scene

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
"""What a value can be called; a value that is not here has one name, its own."""
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
    """Say in words what a scene shows: its objects in any order, each with size, colour, shape,
    motion and speed; the background; the camera.

    Args:
      scene: what is described.
      seed: chooses the wording.

    Returns:
      One or more sentences.
    """
    rng = np.random.default_rng([seed, 1])
    clauses = [_clause(scene.objects[i], rng) for i in rng.permutation(len(scene.objects))]
    background, camera = _background(scene.background, rng), _camera(scene.camera, rng)
    over = _pick(("on", "against", "in front of", "over"), rng)
    joint = _pick(JOINTS, rng)
    together = (
        joint.join([", ".join(clauses[:-1]), clauses[-1]]) if len(clauses) > 1 else clauses[0]
    )
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


def _pick(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[rng.integers(len(values))]


def _word(value: str, rng: np.random.Generator) -> str:
    return _pick(WORDS.get(value, (value,)), rng)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _clause(thing: Object, rng: np.random.Generator) -> str:
    """A noun with its adjectives, its motion and its speed."""
    size, color, shape, speed = (
        _word(value, rng) for value in (thing.size, thing.color, thing.shape, thing.speed)
    )
    way = _word(thing.motion, rng)
    if thing.motion in DIRECTIONS:
        verb = _pick(TRAVEL, rng)
    elif thing.motion in SPINS:
        verb = _pick(SPIN, rng)
    else:
        verb, way = way, ""
    move = [verb, way, speed] if speed == "fast" else _pick_order(verb, way, speed, rng)
    return f"a {size} {color} {shape} {' '.join(part for part in move if part)}"


def _pick_order(verb: str, way: str, speed: str, rng: np.random.Generator) -> list[str]:
    orders = [verb, way, speed], [speed, verb, way], [verb, speed, way]
    return orders[rng.integers(3 if way else 2)]


def _background(background: Background, rng: np.random.Generator) -> str:
    colors = [_word(background.colors[i], rng) for i in rng.permutation(len(background.colors))]
    return _pick(BACKGROUND[f"{background.kind} {background.axis}".strip()], rng).format(*colors)


def _camera(camera: str, rng: np.random.Generator) -> str:
    if camera == "still":
        return _pick(CAMERA_STILL, rng)
    return _pick(CAMERA_PAN if camera in ("left", "right") else CAMERA_VERTICAL, rng).format(camera)
