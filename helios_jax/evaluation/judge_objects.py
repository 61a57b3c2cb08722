"""The objects of a clip, found by what they look like before their background, and named by the
shape and the motion that explain them best.
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
"""What covers less, in squares of the small radius, is no object: a third of the smallest."""
MOST = 3
"""Objects in a scene."""
FEW = 4
"""Every so many frames are looked at to choose colours."""
EDGE = 1.6
"""Pixels over which outlines are taken to be blurred."""
BELIEF = 0.75
"""Of a pixel's squared distance from the background, a colour must explain this much."""
EXPLAINED = 35.0
"""A pixel that is no farther off than this, in RGB, needs no other colour."""
REACH, CELLS = 1.62, 41
"""A patch reaches so many large radii each way from an object, in so many cells along a side."""
RADII = np.geomspace(0.43, 1.43, 15)
"""That are tried, in large radii."""
TURNS = np.arange(24) / 24 * 2 * np.pi


class _Mask(NamedTuple):
    """Where an object of one colour is seen; ``cover`` is its share of each pixel."""

    color: str
    cover: Float[np.ndarray, "F Y X"]


class _Pixels(NamedTuple):
    """Pixels and the background there: their difference ``off``, and the products that are used
    again and again.
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
    """Find the objects of a clip, at most one of each colour. What neither moves, turns nor pulses
    has the motion "still" and no speed.

    Args:
      frames: RGB from 0 to 255.
      behind: the background alone.
      moved: how far the camera has gone, in units.
      times: of the frames, in seconds.
      edition: of the world, which says how large and fast things can be.
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
    """Add the colour that explains most of what is not yet explained, as long as that is as much as
    an object.

    A pixel counts for the colour on whose way from the background it lies nearest, if that colour
    is more than half of it and explains most of its squared distance from the background.
    """
    unit = min(frames.shape[1:3])
    every, few = _pixels(frames, behind), _pixels(frames[::FEW], behind[::FEW])
    shares, lefts = map(
        np.stack, zip(*(_mixture(few, np.array(color, np.float32)) for color in COLORS.values()))
    )
    lefts = np.where(shares > 0.5, lefts, np.inf)
    nearest, least = lefts.argmin(0), lefts.min(0)
    unexplained, owner = every.squared.copy(), np.full(every.squared.shape, -1)
    cover, found = np.zeros_like(unexplained), []
    while len(found) < MOST:
        left = unexplained[::FEW]
        gain = left - least
        believed = (gain > BELIEF * left) & (left > EXPLAINED**2)
        best = np.argmax([gain[believed & (nearest == i)].sum() for i in range(len(COLORS))])
        mine = believed & (nearest == best)
        if mine.sum() / len(mine) / (small * unit) ** 2 < LEAST_AREA:
            break
        # the colour as it is, which damage may have changed: that of the pixels that hold little
        # else
        seen = np.median(
            frames[::FEW][mine & (shares[best] >= np.median(shares[best][mine]))], axis=0
        )
        share, left = _mixture(every, seen)
        mine = (share > 0.15) & (left < unexplained)
        cover, owner = np.where(mine, share, cover), np.where(mine, len(found), owner)
        unexplained = np.minimum(unexplained, left)
        found.append(min(COLORS, key=lambda each: np.linalg.norm(seen - COLORS[each])))
    return [
        _Mask(name, np.where(owner == i, cover, 0).astype(np.float32))
        for i, name in enumerate(found)
    ]


def _pixels(frames: Float[np.ndarray, "F Y X 3"], behind: Float[np.ndarray, "F Y X 3"]) -> _Pixels:
    off = frames - behind
    return _Pixels(
        off,
        behind,
        *(
            np.einsum("fyxc,fyxc->fyx", a, b)
            for a, b in ((off, off), (off, behind), (behind, behind))
        ),
    )


def _mixture(
    pixels: _Pixels, color: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "F Y X"], Float[np.ndarray, "F Y X"]]:
    """How much of a colour over the background explains each pixel best, and the squared distance
    that is left.
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
    """Where it goes, and if it stays, whether it pulses or spins; then its shape and size."""
    height, width = mask.cover.shape[1:]
    unit = min(height, width)
    large = edition.sizes["large"]
    extent = np.array([width, height]) / unit
    centre, area = _follow(mask.cover, extent, large)
    hidden = np.clip(sum(others), 0, 1) if others else np.zeros_like(mask.cover)
    move, place = _read_move(centre + moved, area, _moves(times - times[0], edition), extent)
    growth = np.zeros(len(times))
    motion, speed = move.motion, move.speed
    if motion == "still":
        depth, pulse, growth_of_pulse = _read_pulse(area, times, edition)
        if depth > edition.pulse_depth / 2:
            motion, speed, growth = "pulse", pulse, growth_of_pulse
    middle = place + move.shift - moved
    patches = functools.partial(
        _patches, mask.cover, hidden, middle * unit, large * unit * np.exp(growth)
    )
    stays = motion == "still"
    turns = {(motion, speed): 0.0}
    if stays:
        turns |= {
            (way, pace): SPINS[way] * rate
            for way in SPINS
            for pace, rate in edition.spin_speed.items()
        }
    readings = (
        (*_read_shape(patches(rate * times), large * unit, stays, with_round=not rate), *key)
        for key, rate in turns.items()
    )
    _, shape, radius, motion, speed = min(readings, key=lambda reading: reading[0])
    size = min(edition.sizes, key=lambda name: abs(np.log(edition.sizes[name] / (large * radius))))
    return Object(shape, mask.color, size, motion, speed, tuple((place / extent % 1).tolist()), 0.0)


def _follow(
    cover: Float[np.ndarray, "F Y X"], extent: Float[np.ndarray, "2"], large: float
) -> tuple[Float[np.ndarray, "F 2"], Float[np.ndarray, "F"]]:
    """The middle of a mask on the torus, in units, and its area in square units, of what is near
    that middle.
    """
    height, width = cover.shape[1:]
    unit = min(height, width)
    centres, areas = [], []
    x, y = (np.arange(width) + 0.5) / unit, (np.arange(height) + 0.5) / unit
    for frame in cover:
        along = frame.sum(0), frame.sum(1)
        centre = np.array(
            [
                _circular_mean(place, weight, size)
                for place, weight, size in zip((x, y), along, extent)
            ]
        )
        for _ in range(3):
            off_x, off_y = _wrap(x - centre[0], extent[0]), _wrap(y - centre[1], extent[1])
            near = frame * (off_x**2 + off_y[:, None] ** 2 < (REACH * large) ** 2)
            total = near.sum() + 1e-6
            centre = centre + np.array([near.sum(0) @ off_x, near.sum(1) @ off_y]) / total
        centres.append(centre)
        areas.append(total / unit**2)
    return np.array(centres), np.array(areas)


def _circular_mean(
    place: Float[np.ndarray, "cells"], weight: Float[np.ndarray, "cells"], period: float
) -> float:
    return np.angle(weight @ np.exp(2j * np.pi * place / period)) * period / (2 * np.pi)


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
    """The motion that keeps nearest to the centres, and its place at first. A centre that is far
    off counts little, and so does one of which little is seen: of an object that is half behind
    another, it is the middle of the other half.
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


def _read_pulse(
    area: Float[np.ndarray, "F"], times: Float[np.ndarray, "F"], edition: Edition
) -> tuple[float, str, Float[np.ndarray, "F"]]:
    """The wave that fits the radius best: its depth, its speed, and the logarithm of the radius
    over its mean.
    """
    growth = np.log(area + 1e-4) / 2
    fits = []
    for speed, rate in edition.pulse_rate.items():
        waves = np.stack(
            [
                np.ones_like(times),
                np.sin(2 * np.pi * rate * times),
                np.cos(2 * np.pi * rate * times),
            ],
            axis=-1,
        )
        weight = np.ones_like(times)
        for _ in range(8):
            fit = np.linalg.lstsq(waves * weight[:, None] ** 0.5, growth * weight**0.5, rcond=None)[
                0
            ]
            distance = np.abs(growth - waves @ fit)
            weight = 1 / np.maximum(distance, 0.01)
        fits.append(
            (np.minimum(distance, 0.2).mean(), np.hypot(*fit[1:]), speed, waves[:, 1:] @ fit[1:])
        )
    return min(fits, key=lambda each: each[0])[1:]


def _patches(
    cover: Float[np.ndarray, "F Y X"],
    hidden: Float[np.ndarray, "F Y X"],
    middle: Float[np.ndarray, "F 2"],
    unit: Float[np.ndarray, "F"],
    turn: float | Float[np.ndarray, "F"],
) -> tuple[Float[np.ndarray, "cells"], Float[np.ndarray, "cells"], float]:
    """Sums over the frames of patches that go with the object and turn back its turning; ``unit``
    is the pixels of a large radius.

    Returns:
      The weight of each cell (how often nothing hid it), the weighted sum of covers, and that of
      all squared covers.
    """
    grid = np.linspace(-REACH, REACH, CELLS)
    turn = np.broadcast_to(turn, unit.shape)[:, None, None]
    x = (
        (grid * np.cos(turn) - grid[:, None] * np.sin(turn)) * unit[:, None, None]
        + middle[:, 0, None, None]
        - 0.5
    )
    y = (
        (grid[:, None] * np.cos(turn) + grid * np.sin(turn)) * unit[:, None, None]
        + middle[:, 1, None, None]
        - 0.5
    )
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    part_x, part_y = x - left, y - top
    values, weights = np.zeros(x.shape), np.zeros(x.shape)
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
    """The shape nearest to all patches: its squared distance, its name and its radius, in large
    radii of ``unit`` pixels.
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
    """Patches of every shape in every size, upright only or turned every way; those that look the
    same when turned are left out on request.
    """
    grid = np.linspace(-REACH, REACH, CELLS, dtype=np.float32)
    turn = TURNS.astype(np.float32)[:, None, None] if turned else np.zeros((1, 1, 1), np.float32)
    x, y = (
        grid * np.cos(turn) + grid[:, None] * np.sin(turn),
        grid[:, None] * np.cos(turn) - grid * np.sin(turn),
    )
    templates, names, radii = [], [], []
    for shape in SHAPES:
        if not with_round and not can_spin(shape):
            continue
        for radius in RADII.tolist():
            cover = np.clip(
                0.5 - signed_distance(shape, x / radius, y / radius) * (radius * unit / EDGE), 0, 1
            )
            templates.append(cover.reshape(len(turn), -1))
            names += [shape] * len(turn)
            radii += [radius] * len(turn)
    return np.concatenate(templates), names, radii
