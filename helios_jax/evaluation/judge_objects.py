"""Reading the objects of a clip.

Each is found by its colour before the background, and gets the shape and the motion that explain
its pixels best.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from helios_jax.world.drawing import signed_distance
from helios_jax.world.scenes import (
    BOUNCES,
    COLORS,
    DIRECTIONS,
    SHAPES,
    SPINS,
    Edition,
    Object,
    can_spin,
)

LEAST_AREA = 0.71
"""Least area of an object, in squares of the small radius: a third of the smallest shape's."""
MOST_OBJECTS = 3
"""Objects in a scene."""
STRIDE = 4
"""Of the frames by which colours are chosen."""
EDGE = 1.6
"""Pixels over which outlines are blurred."""
LEAST_EXPLAINED = 0.75
"""Share of a pixel's squared distance from the background that a colour must explain."""
NEAR_BACKGROUND = 35.0
"""Distance in RGB from the background up to which a pixel shows no object."""
REACH = 1.62
"""Large radii that a patch reaches each way from an object."""
CELLS = 41
"""Cells along the side of a patch."""
RADII = np.geomspace(0.43, 1.43, 15)
"""Radii of the templates, in large radii."""
TURNS = np.arange(24) / 24 * 2 * np.pi
"""Angles of the templates of objects that may be turned."""


class _Mask(NamedTuple):
    """Where an object of one colour is seen; ``cover`` is its share of each pixel."""

    color: str
    cover: Float[np.ndarray, "F Y X"]


class _Pixels(NamedTuple):
    """Pixels and the background behind them.

    Attributes:
      off: their difference.
      behind: the background.
      squared, off_behind, behind_behind: products over the channels, which every colour needs.
    """

    off: Float[np.ndarray, "F Y X 3"]
    behind: Float[np.ndarray, "F Y X 3"]
    squared: Float[np.ndarray, "F Y X"]
    off_behind: Float[np.ndarray, "F Y X"]
    behind_behind: Float[np.ndarray, "F Y X"]


class _Move(NamedTuple):
    """A motion of the centre."""

    motion: str
    speed: str
    shift: Float[np.ndarray, "F 2"]


def read_objects(
    frames: Float[np.ndarray, "F Y X 3"],
    behind: Float[np.ndarray, "F Y X 3"],
    moved: Float[np.ndarray, "F 2"],
    times: Float[np.ndarray, "F"],
    edition: Edition,
) -> tuple[Object, ...]:
    """Find the objects of a clip, at most one of each colour.

    Args:
      frames: RGB from 0 to 255.
      behind: the background alone.
      moved: how far the camera has gone, in units.
      times: of the frames, in seconds.
      edition: of the world, which says how large and how fast objects can be.

    Returns:
      The objects; one that neither moves, spins nor pulses has the motion "still" and no speed.
    """
    masks = _find_masks(frames, behind, edition.sizes["small"])
    found = []
    for mask in masks:
        others = [other.cover for other in masks if other is not mask]
        found.append(_describe(mask, others, moved, times, edition))
    return tuple(found)


def _find_masks(
    frames: Float[np.ndarray, "F Y X 3"], behind: Float[np.ndarray, "F Y X 3"], small: float
) -> list[_Mask]:
    """Masks of the colours that explain most of the pixels, one after another.

    A colour is added as long as what it explains is as large as an object. A pixel counts for the
    colour whose mixture with the background lies nearest, if that colour is more than half of it
    and explains most of its squared distance from the background.
    """
    unit = min(frames.shape[1:3])
    every = _pixels(frames, behind)
    few = _pixels(frames[::STRIDE], behind[::STRIDE])
    mixtures = [_mixture(few, np.array(color, np.float32)) for color in COLORS.values()]
    shares = np.stack([share for share, _ in mixtures])
    rest = np.stack([left for _, left in mixtures])
    rest = np.where(shares > 0.5, rest, np.inf)
    nearest = rest.argmin(0)
    least = rest.min(0)
    unexplained = every.squared.copy()
    owner = np.full(every.squared.shape, -1)
    cover = np.zeros_like(unexplained)
    found: list[str] = []
    while len(found) < MOST_OBJECTS:
        left = unexplained[::STRIDE]
        gain = left - least
        shown = (gain > LEAST_EXPLAINED * left) & (left > NEAR_BACKGROUND**2)
        best = np.argmax([gain[shown & (nearest == i)].sum() for i in range(len(COLORS))])
        mine = shown & (nearest == best)
        if mine.sum() / len(mine) / (small * unit) ** 2 < LEAST_AREA:
            break
        # Damage may have changed the colour: take that of the pixels that hold most of it.
        pure = mine & (shares[best] >= np.median(shares[best][mine]))
        seen = np.median(frames[::STRIDE][pure], axis=0)
        share, left = _mixture(every, seen)
        mine = (share > 0.15) & (left < unexplained)
        cover = np.where(mine, share, cover)
        owner = np.where(mine, len(found), owner)
        unexplained = np.minimum(unexplained, left)
        found.append(_nearest_color(seen))
    return [
        _Mask(name, np.where(owner == i, cover, 0).astype(np.float32))
        for i, name in enumerate(found)
    ]


def _nearest_color(color: Float[np.ndarray, "3"]) -> str:
    return min(COLORS, key=lambda name: np.linalg.norm(color - COLORS[name]))


def _pixels(frames: Float[np.ndarray, "F Y X 3"], behind: Float[np.ndarray, "F Y X 3"]) -> _Pixels:
    off = frames - behind
    return _Pixels(off, behind, _dot(off, off), _dot(off, behind), _dot(behind, behind))


def _dot(
    a: Float[np.ndarray, "F Y X 3"], b: Float[np.ndarray, "F Y X 3"]
) -> Float[np.ndarray, "F Y X"]:
    return np.einsum("fyxc,fyxc->fyx", a, b)


def _mixture(
    pixels: _Pixels, color: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "F Y X"], Float[np.ndarray, "F Y X"]]:
    """The share of a colour over the background that explains each pixel best.

    Returns:
      The share, and the squared distance that it leaves.
    """
    towards = pixels.off @ color - pixels.off_behind
    whole = np.maximum(color @ color - 2 * (pixels.behind @ color) + pixels.behind_behind, 1)
    share = (towards / whole).clip(0, 1)
    return share, pixels.squared - share * (2 * towards - share * whole)


def _describe(
    mask: _Mask,
    others: list[Float[np.ndarray, "F Y X"]],
    moved: Float[np.ndarray, "F 2"],
    times: Float[np.ndarray, "F"],
    edition: Edition,
) -> Object:
    """The object that a mask shows.

    First where it goes; if it stays, whether it pulses or spins; then its shape and size.
    """
    height, width = mask.cover.shape[1:]
    unit = min(height, width)
    large = edition.sizes["large"]
    extent = np.array([width, height]) / unit
    centre, area = _follow(mask.cover, extent, large)
    hidden = np.clip(sum(others), 0, 1) if others else np.zeros_like(mask.cover)
    move, place = _read_move(centre + moved, area, _moves(times - times[0], edition), extent)
    growth = np.zeros(len(times))
    motion = move.motion
    speed = move.speed
    if motion == "still":
        pulse = _read_pulse(area, times, edition)
        if pulse.depth > edition.pulse_depth / 2:
            motion = "pulse"
            speed = pulse.speed
            growth = pulse.growth
    middle = place + move.shift - moved
    patches = functools.partial(
        _patches, mask.cover, hidden, middle * unit, large * unit * np.exp(growth)
    )
    spins = {(motion, speed): 0.0}
    stays = motion == "still"
    if stays:
        for way, sign in SPINS.items():
            for pace, rate in edition.spin_speed.items():
                spins[way, pace] = sign * rate
    readings = []
    for (motion, speed), rate in spins.items():
        shape = _read_shape(patches(rate * times), large * unit, stays, with_round=not rate)
        readings.append((*shape, motion, speed))
    _, shape, radius, motion, speed = min(readings, key=lambda reading: reading[0])
    size = min(edition.sizes, key=lambda name: abs(np.log(edition.sizes[name] / (large * radius))))
    x, y = (place / extent % 1).tolist()
    return Object(shape, mask.color, size, motion, speed, (x, y), 0.0)


def _follow(
    cover: Float[np.ndarray, "F Y X"], extent: Float[np.ndarray, "2"], large: float
) -> tuple[Float[np.ndarray, "F 2"], Float[np.ndarray, "F"]]:
    """The middle of a mask on the torus, in units, and the area around it, in square units."""
    height, width = cover.shape[1:]
    unit = min(height, width)
    centres = []
    areas = []
    x = (np.arange(width) + 0.5) / unit
    y = (np.arange(height) + 0.5) / unit
    for frame in cover:
        middle_x = _circular_mean(x, frame.sum(0), extent[0])
        middle_y = _circular_mean(y, frame.sum(1), extent[1])
        centre = np.array([middle_x, middle_y])
        for _ in range(3):
            off_x = _wrap(x - centre[0], extent[0])
            off_y = _wrap(y - centre[1], extent[1])
            near = frame * (off_x**2 + off_y[:, None] ** 2 < (REACH * large) ** 2)
            total = near.sum() + 1e-6
            centre = centre + np.array([near.sum(0) @ off_x, near.sum(1) @ off_y]) / total
        centres.append(centre)
        areas.append(total / unit**2)
    return np.array(centres), np.array(areas)


def _circular_mean(
    place: Float[np.ndarray, "cells"], weight: Float[np.ndarray, "cells"], period: float
) -> float:
    turn = np.angle(weight @ np.exp(2j * np.pi * place / period))
    return float(turn * period / (2 * np.pi))


def _wrap(difference: np.ndarray, period: float | np.ndarray) -> np.ndarray:
    """The shortest way on a circle."""
    return difference - period * np.round(difference / period)


def _moves(times: Float[np.ndarray, "F"], edition: Edition) -> list[_Move]:
    """Every way in which a centre can move."""
    moves = [_Move("still", "", np.zeros((len(times), 2)))]
    for name, way in DIRECTIONS.items():
        moves += [
            _Move(name, speed, times[:, None] * (rate * np.array(way)))
            for speed, rate in edition.travel_speed.items()
        ]
    for name, way in BOUNCES.items():
        for speed, rate in edition.bounce_rate.items():
            cycles = (rate * times + np.arange(32)[:, None] / 32) % 1
            shifts = edition.bounce_reach * (np.abs(4 * cycles - 2) - 1)[..., None] * np.array(way)
            moves += [_Move(name, speed, shift) for shift in shifts]
    return moves


def _read_move(
    centre: Float[np.ndarray, "F 2"],
    area: Float[np.ndarray, "F"],
    moves: list[_Move],
    extent: Float[np.ndarray, "2"],
) -> tuple[_Move, Float[np.ndarray, "2"]]:
    """The motion that stays nearest to the centres, and its first place.

    A centre that is far off counts little, and so does one with little area: of an object that is
    half behind another, it is the middle of the other half.
    """
    seen = np.minimum(area / np.quantile(area, 0.8), 1) ** 4
    rest = centre - np.stack([move.shift for move in moves])  # [moves, F, 2]
    weight = np.broadcast_to(seen, rest.shape[:2])
    for _ in range(6):
        turn = np.exp(2j * np.pi * rest / extent)
        place = np.angle((weight[..., None] * turn).sum(1)) * extent / (2 * np.pi)
        distance = np.linalg.norm(_wrap(rest - place[:, None], extent), axis=-1)
        weight = seen / np.maximum(distance, 0.005)
    best = np.argmin(np.minimum(distance, 0.08) @ seen)
    return moves[best], place[best]


class _Pulse(NamedTuple):
    """A wave of the radius.

    Attributes:
      depth: its amplitude, of the radius's logarithm.
      speed: "slow" or "fast".
      growth: the logarithm of the radius over its mean.
    """

    depth: float
    speed: str
    growth: Float[np.ndarray, "F"]


def _read_pulse(
    area: Float[np.ndarray, "F"], times: Float[np.ndarray, "F"], edition: Edition
) -> _Pulse:
    """The wave that fits the radius best."""
    growth = np.log(area + 1e-4) / 2
    best = None
    least = np.inf
    for speed, rate in edition.pulse_rate.items():
        phase = 2 * np.pi * rate * times
        waves = np.stack([np.ones_like(times), np.sin(phase), np.cos(phase)], axis=-1)
        weight = np.ones_like(times)
        for _ in range(8):
            root = weight**0.5
            fit, *_ = np.linalg.lstsq(waves * root[:, None], growth * root, rcond=None)
            distance = np.abs(growth - waves @ fit)
            weight = 1 / np.maximum(distance, 0.01)
        cost = np.minimum(distance, 0.2).mean()
        if best is None or cost < least:
            least = cost
            best = _Pulse(float(np.hypot(*fit[1:])), speed, waves[:, 1:] @ fit[1:])
    assert best is not None
    return best


def _patches(
    cover: Float[np.ndarray, "F Y X"],
    hidden: Float[np.ndarray, "F Y X"],
    middle: Float[np.ndarray, "F 2"],
    unit: Float[np.ndarray, "F"],
    turn: float | Float[np.ndarray, "F"],
) -> tuple[Float[np.ndarray, "cells"], Float[np.ndarray, "cells"], float]:
    """Sums over the frames of patches that move and turn with the object.

    Args:
      cover: of the object.
      hidden: of the objects before it.
      middle: of the object, in pixels.
      unit: pixels of a large radius.
      turn: of the object, clockwise, in radians.

    Returns:
      The weight of each cell, which is how often nothing hides it; the weighted sum of covers; and
      that of all squared covers.
    """
    grid = np.linspace(-REACH, REACH, CELLS)
    turn = np.broadcast_to(turn, unit.shape)[:, None, None]
    turned_x = (grid * np.cos(turn) - grid[:, None] * np.sin(turn)) * unit[:, None, None]
    turned_y = (grid[:, None] * np.cos(turn) + grid * np.sin(turn)) * unit[:, None, None]
    x = turned_x + middle[:, 0, None, None] - 0.5
    y = turned_y + middle[:, 1, None, None] - 0.5
    left = np.floor(x).astype(int)
    top = np.floor(y).astype(int)
    part_x = x - left
    part_y = y - top
    values = np.zeros(x.shape)
    weights = np.zeros(x.shape)
    frame = np.arange(len(cover))[:, None, None]
    for down in (0, 1):
        for right in (0, 1):
            share = np.where(right, part_x, 1 - part_x) * np.where(down, part_y, 1 - part_y)
            where = frame, (top + down) % cover.shape[1], (left + right) % cover.shape[2]
            values += share * cover[where]
            weights += share * (1 - hidden[where])
    weights = weights.clip(0.02, 1)
    return (
        weights.sum(0).ravel(),
        (weights * values).sum(0).ravel(),
        float((weights * values**2).sum()),
    )


def _read_shape(
    sums: tuple[Float[np.ndarray, "cells"], Float[np.ndarray, "cells"], float],
    unit: float,
    turned: bool,
    with_round: bool,
) -> tuple[float, str, float]:
    """The template nearest to all patches.

    Args:
      sums: of :func:`_patches`.
      unit: pixels of a large radius.
      turned: whether the object may be turned.
      with_round: whether shapes that look the same when turned are among the templates.

    Returns:
      Its squared distance, its shape, and its radius in large radii.
    """
    weight, seen, squared = sums
    templates, names, radii = _templates(unit, turned, with_round)
    distance = np.square(templates) @ weight - 2 * templates @ seen + squared
    best = int(np.argmin(distance))
    return float(distance[best]), names[best], radii[best]


@functools.cache
def _templates(
    unit: float, turned: bool, with_round: bool
) -> tuple[Float[np.ndarray, "templates cells"], list[str], list[float]]:
    """Patches of every shape in every size, upright or turned every way; see :func:`_read_shape`.

    Returns:
      The patches, and the shape and the radius of each.
    """
    grid = np.linspace(-REACH, REACH, CELLS, dtype=np.float32)
    turn = TURNS.astype(np.float32)[:, None, None] if turned else np.zeros((1, 1, 1), np.float32)
    x = grid * np.cos(turn) + grid[:, None] * np.sin(turn)
    y = grid[:, None] * np.cos(turn) - grid * np.sin(turn)
    templates = []
    names: list[str] = []
    radii: list[float] = []
    for shape in SHAPES:
        if not with_round and not can_spin(shape):
            continue
        for radius in RADII.tolist():
            distance = signed_distance(shape, x / radius, y / radius)
            cover = np.clip(0.5 - distance * (radius * unit / EDGE), 0, 1)
            templates.append(cover.reshape(len(turn), -1))
            names += [shape] * len(turn)
            radii += [radius] * len(turn)
    return np.concatenate(templates), names, radii
