"""What is behind the objects of a clip: of every kind of background in every place and under every
pan, the one that fits most pixels.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from helios_jax.world.drawing import profile
from helios_jax.world.scenes import BACKGROUND_COLORS, BACKGROUNDS, CAMERAS, Background, pan

CAP = 60.0
"""A pixel that is farther off than this, in RGB, belongs to something else and counts no more than
this.
"""
ROUNDS = 4
"""Of reweighting."""
ROUGH, FINE = (3, 5), (5, 3)
"""How many frames are looked at, and every which row and column of them: an odd number, so that the
edges of patterns do not all fall between.
"""
SIMPLER = 2.0
"""By how much two colours must fit better than one before they are believed."""


class Behind(NamedTuple):
    """A background that was read: its description, the camera's pan, and its picture without the
    objects.
    """

    background: Background
    camera: str
    picture: Float[np.ndarray, "F Y X 3"]


class _Guess(NamedTuple):
    """Phases are those of the first frame, in periods."""

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
    best = []
    for kind, axes in BACKGROUNDS.items():
        guesses = [guess for axis in axes for guess in _guesses(kind, axis)]
        guess = guesses[np.argmin(_fit(guesses, frames, times, *ROUGH)[0])]
        guesses = _refined(guess)
        costs, colors = _fit(guesses, frames, times, *FINE)
        choice = np.argmin(costs)
        best.append((costs[choice] + SIMPLER * (kind != "plain"), guesses[choice], colors[choice]))
    _, guess, colors = min(best, key=lambda each: each[0])
    names = [
        min(BACKGROUND_COLORS, key=lambda name: np.linalg.norm(color - BACKGROUND_COLORS[name]))
        for color in colors
    ]
    share = _share(guess, times - times[0], frames.shape[1:3])[..., None]
    background = Background(
        guess.kind,
        tuple(names[: 1 if guess.kind == "plain" else 2]),
        guess.axis,
        float(guess.phase_x if guess.axis != "y" else guess.phase_y),
    )
    return Behind(background, guess.camera or "still", colors[0] + share * (colors[1] - colors[0]))


def _guesses(kind: str, axis: str) -> list[_Guess]:
    """All pans that can be seen and a grid of phases; half a period later the colours have changed
    places, which the fit takes care of.
    """
    if kind == "plain":
        return [_Guess(kind, axis, "still", 0.0, 0.0)]
    seen = [
        name
        for name, (x, y) in CAMERAS.items()
        if not (axis == "x" and y) and not (axis == "y" and x)
    ]
    steps = np.arange(8 if kind == "checker" else 16) / (16 if kind == "checker" else 32)
    places = [
        (x, y)
        for x in (steps if axis != "y" else (0.0,))
        for y in (steps if axis != "x" else (0.0,))
    ]
    guesses = [_Guess(kind, axis, camera, x, y) for camera in seen for x, y in places]
    return (
        [*guesses, _Guess("gradient", axis, "", 0.0, 0.0)] if kind == "gradient" else guesses
    )  # "": still, and from end to end


def _refined(guess: _Guess) -> list[_Guess]:
    """The same with phases around its own."""
    if guess.kind == "plain" or not guess.camera:
        return [guess]
    steps = np.arange(-4, 5) / (128 if guess.kind == "checker" else 256)
    near_x, near_y = (steps if guess.axis != other else (0.0,) for other in ("y", "x"))
    return [
        guess._replace(phase_x=guess.phase_x + x, phase_y=guess.phase_y + y)
        for x in near_x
        for y in near_y
    ]


def _share(
    guess: _Guess, times: Float[np.ndarray, "F"], size: tuple[int, int], stride: int = 1
) -> Float[np.ndarray, "F Y X"]:
    """The second colour's share of each pixel; with a stride, of some rows and columns."""
    moved = pan(guess.camera or "still", times)
    unit = min(size)
    along = [
        profile(
            Background(guess.kind, ("", ""), guess.axis, phase),
            axis,
            size[1 - i],
            unit,
            moved[:, i],
            not guess.camera,
        )[:, ::stride]
        for axis, phase, i in (("y", guess.phase_y, 1), ("x", guess.phase_x, 0))
    ]
    y, x = along[0][:, :, None].astype(np.float32), along[1][:, None].astype(np.float32)
    return y + x - 2 * y * x


def _fit(
    guesses: list[_Guess],
    frames: Float[np.ndarray, "F Y X 3"],
    times: Float[np.ndarray, "F"],
    count: int,
    stride: int,
) -> tuple[Float[np.ndarray, "guesses"], Float[np.ndarray, "guesses 2 3"]]:
    """How badly each guess fits with the colours that suit it best, and those colours: least
    squares, reweighted towards what most pixels say.
    """
    few = np.unique(np.linspace(0, len(frames) - 1, count).astype(int))
    pixels = frames[few, ::stride, ::stride].reshape(-1, 3)
    share = np.stack(
        [
            _share(guess, times[few] - times[0], frames.shape[1:3], stride).reshape(-1)
            for guess in guesses
        ]
    )
    weight = np.ones_like(share)
    for _ in range(ROUNDS):
        second = weight * share
        sums = weight.sum(-1), second.sum(-1), np.einsum("gp,gp->g", second, share)
        matrix = np.array([[sums[0], sums[1]], [sums[1], sums[2]]]).transpose(
            2, 0, 1
        ) + 1e-3 * np.eye(2)
        low, slope = (
            np.linalg.solve(matrix, np.stack([weight @ pixels, second @ pixels], axis=1))
            .astype(np.float32)
            .transpose(1, 0, 2)
        )
        distance = np.sqrt(
            sum((pixels[:, c] - low[:, c, None] - share * slope[:, c, None]) ** 2 for c in range(3))
        )
        weight = np.where(distance < CAP, 1 / np.maximum(distance, 4), 1e-3).astype(np.float32)
    return np.minimum(distance, CAP).mean(-1), np.stack([low, low + slope], axis=1)
