"""Scenes of the procedural world: their attributes, how they are sampled, and how they move.

Places are fractions of the frame. Lengths and speeds are in units of the frame's shorter side, so a
scene looks the same at any size. Objects move on a torus: what leaves the frame comes in on the
other side, so every motion goes on for ever and a caption stays true to the last frame.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring")
COLORS = {
    "red": (226, 44, 44),
    "orange": (250, 140, 20),
    "yellow": (248, 224, 48),
    "green": (48, 180, 80),
    "cyan": (64, 214, 224),
    "blue": (56, 96, 232),
    "purple": (150, 60, 200),
    "pink": (255, 150, 200),
    "white": (248, 248, 248),
}
"""Colours of objects, RGB."""

SIZES = ("small", "large")
SPEEDS = ("slow", "fast")

_DIAGONAL = 0.5**0.5
DIRECTIONS = {
    "right": (1.0, 0.0),
    "down right": (_DIAGONAL, _DIAGONAL),
    "down": (0.0, 1.0),
    "down left": (-_DIAGONAL, _DIAGONAL),
    "left": (-1.0, 0.0),
    "up left": (-_DIAGONAL, -_DIAGONAL),
    "up": (0.0, -1.0),
    "up right": (_DIAGONAL, -_DIAGONAL),
}
"""Unit vectors (x to the right, y downward)."""

BOUNCES = {"bounce vertically": (0.0, 1.0), "bounce horizontally": (1.0, 0.0)}
SPINS = {"clockwise": 1.0, "counterclockwise": -1.0}
MOTION_KINDS = {
    "direction": tuple(DIRECTIONS),
    "bounce": tuple(BOUNCES),
    "spin": tuple(SPINS),
    "pulse": ("pulse",),
}
MOTIONS = tuple(motion for kind in MOTION_KINDS.values() for motion in kind)
_MOTIONS_WITHOUT_SPINS = tuple(motion for motion in MOTIONS if motion not in SPINS)


class Edition(NamedTuple):
    """How large and how fast objects are.

    Editions share their captions: of one seed they show the same objects before the same
    backgrounds, in other sizes, at other places and speeds.

    Attributes:
      sizes: radius by size.
      travel_speed: of objects that keep to a direction; units a second.
      spin_speed: radians a second.
      bounce_rate: bounces there and back a second.
      bounce_reach: how far a bouncing object goes from the middle of its path.
      pulse_rate: pulses a second.
      pulse_depth: amplitude of the radius's logarithm; 0.22 is from 80 % to 125 %.
      frames: width and height, in units, of the frames that places are chosen for: in these,
        objects are whole at first and overlap least.
    """

    sizes: dict[str, float]
    travel_speed: dict[str, float]
    spin_speed: dict[str, float]
    bounce_rate: dict[str, float]
    bounce_reach: float
    pulse_rate: dict[str, float]
    pulse_depth: float
    frames: tuple[tuple[float, float], ...]


EDITIONS = {
    1: Edition(
        sizes={"small": 0.13, "large": 0.21},
        travel_speed={"slow": 0.25, "fast": 0.7},
        spin_speed={"slow": np.pi / 4, "fast": 3 * np.pi / 4},
        bounce_rate={"slow": 0.6, "fast": 1.2},
        bounce_reach=0.2,
        pulse_rate={"slow": 0.7, "fast": 1.4},
        pulse_depth=0.22,
        frames=((1.0, 1.0), (2.0, 1.0)),
    ),
    # 0.20 and 0.31 of 64 pixels fill the cells of the coarsest pyramid grid, which are 32 pixels
    # wide. Spins stay below half of a star's symmetry in a latent frame (30 of 36 degrees).
    2: Edition(
        sizes={"small": 0.2, "large": 0.31},
        travel_speed={"slow": 0.25, "fast": 0.7},
        spin_speed={"slow": np.pi / 3, "fast": np.pi},
        bounce_rate={"slow": 0.6, "fast": 1.2},
        bounce_reach=0.2,
        pulse_rate={"slow": 0.7, "fast": 1.4},
        pulse_depth=0.3,
        frames=((2.0, 1.0),),
    ),
}
"""1 is what the helios-nano that ships was trained on; 2 is what the recipes train on."""

BACKGROUNDS = {"plain": ("",), "gradient": ("x", "y"), "stripes": ("x", "y"), "checker": ("",)}
"""Kinds, and the axes along which each can vary: stripes along "x" stand upright."""
BACKGROUND_COLORS = {
    "black": (16, 16, 20),
    "gray": (112, 112, 116),
    "navy": (24, 32, 104),
    "brown": (112, 76, 40),
    "teal": (12, 92, 92),
    "maroon": (92, 8, 40),
    "cream": (238, 226, 198),
}
CAMERAS = {
    "still": (0.0, 0.0),
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
"""Where the camera pans to; the scene moves the other way."""
PAN_SPEED = 0.15
"""Units a second; slower than any object, so that objects keep their directions in the frame."""

CONTRAST = 90.0
"""Least distance in RGB between an object and every colour of its background."""

HELD_OUT_COLORS = {
    "circle": "purple",
    "square": "green",
    "triangle": "pink",
    "diamond": "red",
    "star": "blue",
    "cross": "yellow",
    "ring": "orange",
}
"""The colour in which each shape is never shown in training."""
HELD_OUT_MOTIONS = {
    "circle": "down right",
    "square": "left",
    "triangle": "up right",
    "diamond": "clockwise",
    "star": "right",
    "cross": "bounce vertically",
    "ring": "up",
}
"""The motion in which each shape is never shown in training."""
SPLITS = ("train", "heldout")


class Object(NamedTuple):
    """One object.

    Attributes:
      shape, color, size: of :data:`SHAPES`, :data:`COLORS`, :data:`SIZES`.
      motion: of :data:`MOTIONS`.
      speed: "slow" or "fast".
      place: fractions (x, y) of the frame at time 0; of a bouncing object, the middle of its path.
      phase: where a bounce, spin or pulse starts, in cycles.
      edition: of :data:`EDITIONS`.
    """

    shape: str
    color: str
    size: str
    motion: str
    speed: str
    place: tuple[float, float]
    phase: float
    edition: int = 1


class Background(NamedTuple):
    """What is behind the objects.

    Attributes:
      kind: of :data:`BACKGROUNDS`.
      colors: one of :data:`BACKGROUND_COLORS` if plain, else two.
      axis: along which it varies, "x" or "y"; empty if along none or both.
      phase: where the pattern starts, in periods.
    """

    kind: str
    colors: tuple[str, ...]
    axis: str
    phase: float


class Scene(NamedTuple):
    """A clip of any length; an object hides those that are listed before it."""

    objects: tuple[Object, ...]
    background: Background
    camera: str


def is_held_out(thing: Object) -> bool:
    """Whether training never shows an object like this."""
    return (
        HELD_OUT_COLORS[thing.shape] == thing.color or HELD_OUT_MOTIONS[thing.shape] == thing.motion
    )


def can_spin(shape: str) -> bool:
    """Whether a shape looks different when it is turned."""
    return shape not in ("circle", "ring")


def sample_scene(seed: int, index: int, split: str = "train", edition: int = 1) -> Scene:
    """Scene ``index`` of the endless series ``seed``.

    Args:
      seed, index: not negative; the same two give the same scene for ever.
      split: "train" has no held-out object, see :func:`is_held_out`; "heldout" has at least one.
      edition: of :data:`EDITIONS`.

    Raises:
      ValueError: if there is no such split or edition.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: known are {', '.join(SPLITS)}")
    if edition not in EDITIONS:
        raise ValueError(f"edition={edition}: known are {', '.join(map(str, EDITIONS))}")
    rng = np.random.default_rng([seed, index])
    objects = [thing._replace(edition=edition) for thing in _sample_objects(rng, split)]
    camera = _choose(rng, tuple(CAMERAS)[1:]) if rng.random() < 0.5 else "still"
    background = _sample_background(rng, camera, [thing.color for thing in objects])
    if background.kind == "plain":
        camera = "still"  # nothing would show that it moves
    return Scene(_place(rng, objects), background, camera)


def _choose(rng: np.random.Generator, values: tuple) -> str:
    return values[rng.integers(len(values))]


def _sample_objects(rng: np.random.Generator, split: str) -> list[Object]:
    """One to three objects of different colours, without places or an edition.

    At most one of three is large. Of held-out scenes, the first that is drawn is held out.
    """
    objects: list[Object] = []
    count = int(rng.integers(1, 4))
    while len(objects) < count:
        only_small = count == 3 and any(other.size == "large" for other in objects)
        thing = _sample_object(rng, only_small)
        repeated = any(other.color == thing.color for other in objects)
        if split == "train":
            fits = not is_held_out(thing)
        else:
            fits = bool(objects) or is_held_out(thing)
        if fits and not repeated:
            objects.append(thing)
    return [objects[i] for i in rng.permutation(count)]


def _sample_object(rng: np.random.Generator, only_small: bool) -> Object:
    # The order of these draws decides the scene.
    shape = _choose(rng, SHAPES)
    size = "small" if only_small else _choose(rng, SIZES)
    color = _choose(rng, tuple(COLORS))
    motion = _choose(rng, MOTIONS if can_spin(shape) else _MOTIONS_WITHOUT_SPINS)
    speed = _choose(rng, SPEEDS)
    return Object(shape, color, size, motion, speed, (0.0, 0.0), rng.random())


def _sample_background(rng: np.random.Generator, camera: str, colors: list[str]) -> Background:
    """A background that contrasts with the objects; if the camera pans, it varies along its way."""
    while True:
        kind = _choose(rng, tuple(BACKGROUNDS))
        count = 1 if kind == "plain" else 2
        names = tuple(rng.permutation(list(BACKGROUND_COLORS))[:count].tolist())
        axis = _choose(rng, BACKGROUNDS[kind])
        if axis and camera != "still":
            axis = "x" if CAMERAS[camera][0] else "y"
        moving_gradient = kind == "gradient" and camera != "still"
        phase = rng.random() if kind in ("stripes", "checker") or moving_gradient else 0.0
        shown = np.linspace(BACKGROUND_COLORS[names[0]], BACKGROUND_COLORS[names[-1]], 17)
        distances = [np.linalg.norm(shown - COLORS[color], axis=-1).min() for color in colors]
        if min(distances) >= CONTRAST:
            return Background(kind, names, axis, phase)


def _margin(thing: Object) -> Float[np.ndarray, "2"]:
    """How far from the frame's sides an object starts, as fractions of the frame.

    It is whole at first, and always if it stays or moves along a side. An object that is too large
    for that starts in the middle.
    """
    edition = EDITIONS[thing.edition]
    growth = np.exp(edition.pulse_depth) if thing.motion == "pulse" else 1.0
    reach = 1.2 * edition.sizes[thing.size] * growth
    reach = reach + edition.bounce_reach * np.array(BOUNCES.get(thing.motion, (0.0, 0.0)))
    return np.minimum(reach / np.min(edition.frames, axis=0), 0.5)


def _place(rng: np.random.Generator, objects: list[Object], tries: int = 32) -> tuple[Object, ...]:
    """Put objects where they overlap least.

    This is the best of some random arrangements, over a minute in each of the edition's frames.
    """
    edition = EDITIONS[objects[0].edition]
    low = np.stack([_margin(thing) for thing in objects])
    places = low + (1 - 2 * low) * rng.random((tries, len(objects), 2))
    times = np.concatenate([np.arange(0, 4, 1 / 24), np.linspace(4, 60, 96)])
    shifts = np.stack([shift(thing, times) for thing in objects])
    overlap = np.zeros(tries)
    for extent in map(np.array, edition.frames):
        where = places[:, :, None] * extent + shifts
        for i in range(len(objects)):
            for j in range(i):
                apart = where[:, i] - where[:, j]
                apart -= extent * np.round(apart / extent)
                touching = edition.sizes[objects[i].size] + edition.sizes[objects[j].size]
                overlap += np.maximum(touching - np.linalg.norm(apart, axis=-1), 0).mean(-1)
    best = places[np.argmin(overlap)].tolist()
    return tuple(thing._replace(place=tuple(place)) for thing, place in zip(objects, best))


def shift(thing: Object, times: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F 2"]:
    """How far an object has gone from its place, in units (x, y), without the camera's pan.

    Args:
      thing: the object.
      times: in seconds.
    """
    edition = EDITIONS[thing.edition]
    if thing.motion in DIRECTIONS:
        velocity = edition.travel_speed[thing.speed] * np.array(DIRECTIONS[thing.motion])
        return times[:, None] * velocity
    cycles = (edition.bounce_rate[thing.speed] * times + thing.phase) % 1
    wave = (np.abs(4 * cycles - 2) - 1)[:, None]
    return edition.bounce_reach * wave * np.array(BOUNCES.get(thing.motion, (0.0, 0.0)))


def centre(
    thing: Object, times: Float[np.ndarray, "F"], camera: str, extent: tuple[float, float]
) -> Float[np.ndarray, "F 2"]:
    """Where an object is, in units, in a frame that is ``extent`` units wide and high."""
    size = np.array(extent)
    return (np.array(thing.place) * size + shift(thing, times) - pan(camera, times)) % size


def pan(camera: str, times: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F 2"]:
    """How far the camera has gone, in units (x, y)."""
    return times[:, None] * (PAN_SPEED * np.array(CAMERAS[camera]))


def angle(thing: Object, times: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """How far an object is turned clockwise, in radians; 0 if it does not spin."""
    if thing.motion not in SPINS:
        return np.zeros_like(times)
    speed = SPINS[thing.motion] * EDITIONS[thing.edition].spin_speed[thing.speed]
    return speed * times + 2 * np.pi * thing.phase


def radius(thing: Object, times: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """The radius, in units."""
    edition = EDITIONS[thing.edition]
    depth = edition.pulse_depth if thing.motion == "pulse" else 0.0
    cycles = edition.pulse_rate[thing.speed] * times + thing.phase
    return edition.sizes[thing.size] * np.exp(depth * np.sin(2 * np.pi * cycles))
