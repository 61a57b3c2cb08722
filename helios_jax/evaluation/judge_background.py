"""Reading the background of a clip, and the camera's pan.

Every kind of background is fitted in every phase and under every pan; the one that fits most pixels
is taken.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from helios_jax.world.drawing import profile
from helios_jax.world.scenes import BACKGROUND_COLORS, BACKGROUNDS, CAMERAS, Background, pan

CAP = 60.0
"""Distance in RGB beyond which a pixel belongs to an object; it counts no more than this."""
ROUNDS = 4
"""Of reweighting."""
ROUGH = (3, 5)
"""Frames of the first fit, and the stride of their rows and columns.

Strides are odd, so that the edges of patterns do not all fall between."""
FINE = (5, 3)
"""The same of the second fit."""
SIMPLER = 2.0
"""How much better two colours must fit than one."""


class Behind(NamedTuple):
    """A background that was read.

    Attributes:
      background: its description.
      camera: the pan.
      picture: of it, without the objects.
    """

    background: Background
    camera: str
    picture: Float[np.ndarray, "F Y X 3"]


class _Guess(NamedTuple):
    """A background to be fitted.

    Attributes:
      kind, axis: of the pattern.
      camera: the pan; empty for a gradient that goes from end to end of a still frame.
      phase_x, phase_y: of the first frame, in periods.
    """

    kind: str
    axis: str
    camera: str
    phase_x: float
    phase_y: float


def read_background(frames: Float[np.ndarray, "F Y X 3"], times: Float[np.ndarray, "F"]) -> Behind:
    """Find the background of a clip.

    Args:
      frames: RGB from 0 to 255.
      times: of the frames, in seconds.
    """
    fits = [_fit_kind(kind, frames, times) for kind in BACKGROUNDS]
    _, guess, colors = min(fits, key=lambda fit: fit[0])
    names = [_nearest_color(color) for color in colors]
    background = Background(
        guess.kind,
        tuple(names[: 1 if guess.kind == "plain" else 2]),
        guess.axis,
        float(guess.phase_x if guess.axis != "y" else guess.phase_y),
    )
    share = _share(guess, times - times[0], frames.shape[1:3])[..., None]
    picture = colors[0] + share * (colors[1] - colors[0])
    return Behind(background, guess.camera or "still", picture)


def _fit_kind(
    kind: str, frames: Float[np.ndarray, "F Y X 3"], times: Float[np.ndarray, "F"]
) -> tuple[float, _Guess, Float[np.ndarray, "2 3"]]:
    """The best background of a kind: its cost, itself, and its two colours."""
    guesses = []
    for axis in BACKGROUNDS[kind]:
        guesses += _guesses(kind, axis)
    rough, _ = _fit(guesses, frames, times, *ROUGH)
    guesses = _refined(guesses[np.argmin(rough)])
    costs, colors = _fit(guesses, frames, times, *FINE)
    best = np.argmin(costs)
    cost = float(costs[best] + SIMPLER * (kind != "plain"))
    return cost, guesses[best], colors[best]


def _nearest_color(color: Float[np.ndarray, "3"]) -> str:
    return min(BACKGROUND_COLORS, key=lambda name: np.linalg.norm(color - BACKGROUND_COLORS[name]))


def _guesses(kind: str, axis: str) -> list[_Guess]:
    """All pans that can be seen, with a grid of phases over half a period.

    Half a period later the colours have changed places, and the fit finds the colours.
    """
    if kind == "plain":
        return [_Guess(kind, axis, "still", 0.0, 0.0)]
    steps = np.arange(8) / 16 if kind == "checker" else np.arange(16) / 32
    phases = list(_grid(axis, steps))
    guesses = []
    for camera, (x, y) in CAMERAS.items():
        if not (axis == "x" and y) and not (axis == "y" and x):
            guesses += [_Guess(kind, axis, camera, *phase) for phase in phases]
    if kind == "gradient":
        guesses.append(_Guess(kind, axis, "", 0.0, 0.0))
    return guesses


def _refined(guess: _Guess) -> list[_Guess]:
    """The same with phases around its own."""
    if guess.kind == "plain" or not guess.camera:
        return [guess]
    steps = np.arange(-4, 5) / (128 if guess.kind == "checker" else 256)
    return [
        guess._replace(phase_x=guess.phase_x + x, phase_y=guess.phase_y + y)
        for x, y in _grid(guess.axis, steps)
    ]


def _grid(axis: str, steps: Float[np.ndarray, "n"]) -> Iterator[tuple[float, float]]:
    """Steps along the axes on which a pattern varies."""
    along_x = steps if axis != "y" else (0.0,)
    along_y = steps if axis != "x" else (0.0,)
    yield from itertools.product(along_x, along_y)


def _share(
    guess: _Guess, times: Float[np.ndarray, "F"], size: tuple[int, int], stride: int = 1
) -> Float[np.ndarray, "F Y X"]:
    """The second colour's share of each pixel; with a stride, of some rows and columns."""
    height, width = size
    moved = pan(guess.camera or "still", times)
    still = not guess.camera
    row = Background(guess.kind, ("", ""), guess.axis, guess.phase_y)
    column = Background(guess.kind, ("", ""), guess.axis, guess.phase_x)
    along_y = profile(row, "y", height, min(size), moved[:, 1], still)[:, ::stride]
    along_x = profile(column, "x", width, min(size), moved[:, 0], still)[:, ::stride]
    y = along_y[:, :, None].astype(np.float32)
    x = along_x[:, None].astype(np.float32)
    return y + x - 2 * y * x


def _fit(
    guesses: list[_Guess],
    frames: Float[np.ndarray, "F Y X 3"],
    times: Float[np.ndarray, "F"],
    count: int,
    stride: int,
) -> tuple[Float[np.ndarray, "guesses"], Float[np.ndarray, "guesses 2 3"]]:
    """Fit the two colours of each guess by iteratively reweighted least squares.

    Args:
      guesses: to be fitted.
      frames, times: the clip.
      count: frames that are looked at.
      stride: of their rows and columns.

    Returns:
      The mean distance of the pixels from each guess, at most :data:`CAP` each, and its colours.
    """
    few = np.unique(np.linspace(0, len(frames) - 1, count).astype(int))
    pixels = frames[few, ::stride, ::stride].reshape(-1, 3)
    elapsed = times[few] - times[0]
    shares = [_share(guess, elapsed, frames.shape[1:3], stride).reshape(-1) for guess in guesses]
    share = np.stack(shares)
    fit = _solve(pixels, share, np.ones_like(share))
    for _ in range(ROUNDS - 1):
        near = 1 / np.maximum(fit.distance, 4)
        weight = np.where(fit.distance < CAP, near, 1e-3).astype(np.float32)
        fit = _solve(pixels, share, weight)
    costs = np.minimum(fit.distance, CAP).mean(-1)
    return costs, np.stack([fit.low, fit.low + fit.slope], axis=1)


class _Fit(NamedTuple):
    """Colours of each guess where the second colour's share is 0, their slope, and distances."""

    low: Float[np.ndarray, "guesses 3"]
    slope: Float[np.ndarray, "guesses 3"]
    distance: Float[np.ndarray, "guesses pixels"]


def _solve(
    pixels: Float[np.ndarray, "pixels 3"],
    share: Float[np.ndarray, "guesses pixels"],
    weight: Float[np.ndarray, "guesses pixels"],
) -> _Fit:
    """Weighted least squares of ``pixels = low + share slope`` for each guess."""
    second = weight * share
    ones = weight.sum(-1)
    cross = second.sum(-1)
    squares = np.einsum("gp,gp->g", second, share)
    matrix = np.array([[ones, cross], [cross, squares]]).transpose(2, 0, 1) + 1e-3 * np.eye(2)
    right = np.stack([weight @ pixels, second @ pixels], axis=1)
    low, slope = np.linalg.solve(matrix, right).astype(np.float32).transpose(1, 0, 2)
    squared = sum(
        (pixels[:, c] - low[:, c, None] - share * slope[:, c, None]) ** 2 for c in range(3)
    )
    return _Fit(low, slope, np.sqrt(squared))
