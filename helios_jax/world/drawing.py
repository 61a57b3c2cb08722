"""Drawing scenes, without jagged edges.

A pixel shows the exact average of the background over it, and an object by the share of it that the
outline covers, which follows from the outline's signed distance.
"""

import numpy as np
from jaxtyping import Float, UInt8

from helios_jax.world.scenes import (
    BACKGROUND_COLORS,
    COLORS,
    Background,
    Object,
    Scene,
    angle,
    centre,
    pan,
    radius,
)

PERIOD = 0.5
"""Period of stripes and checkers, in units: two stripes, or two squares."""
FRAMES_AT_ONCE = 16
"""Frames that are drawn at once."""
SMALLEST = 16
"""Least pixels of the shorter side."""


def _spikes(count: int, inner: float, outer: float) -> Float[np.ndarray, "points 2"]:
    """A star with its first spike upward.

    With ``inner = cos(pi / count) * outer`` it is a regular polygon.
    """
    turn = np.arange(2 * count) * np.pi / count
    reach = np.where(np.arange(2 * count) % 2, inner, outer)
    return np.stack([reach * np.sin(turn), -reach * np.cos(turn)], axis=-1)


_CROSS = (
    *((-3, -1), (-1, -1), (-1, -3), (1, -3), (1, -1), (3, -1)),
    *((3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1)),
)
OUTLINES = {
    "square": 0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": _spikes(3, 0.6, 1.2),
    "diamond": np.array([(0, -1.25), (0.75, 0), (0, 1.25), (-0.75, 0)]),
    "star": _spikes(5, 0.52, 1.2),
    "cross": 0.37 * np.array(_CROSS),
}
"""Corners of the shapes that are polygons, upright, for a radius of 1."""
HOLE = 0.55
"""Radius of a ring's hole."""
BOUND = 1.25
"""Distance from the middle beyond which no shape reaches."""


def signed_distance(
    shape: str, x: Float[np.ndarray, "*P"], y: Float[np.ndarray, "*P"]
) -> Float[np.ndarray, "*P"]:
    """Distance to the outline of an upright shape of radius 1 around the origin.

    It is negative inside; y is downward.
    """
    if shape in OUTLINES:
        return _polygon_distance(OUTLINES[shape].astype(x.dtype), x, y)
    distance = np.sqrt(x * x + y * y)
    return np.maximum(distance - 1, HOLE - distance) if shape == "ring" else distance - 1


def _polygon_distance(
    corners: Float[np.ndarray, "points 2"], x: Float[np.ndarray, "*P"], y: Float[np.ndarray, "*P"]
) -> Float[np.ndarray, "*P"]:
    """The nearest edge's distance.

    A point is inside if a ray from it crosses an odd number of edges.
    """
    squared = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0)):
        # from the edge's first corner
        px = x - ax
        py = y - ay
        ex = bx - ax
        ey = by - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ey:
            inside ^= ((py >= 0) != (y >= by)) & (px < py * (ex / ey))
    return np.where(inside, -1, 1) * np.sqrt(squared)


def render(
    scene: Scene, num_frames: int, height: int, width: int, fps: int | float = 24, start: int = 0
) -> UInt8[np.ndarray, "F Y X 3"]:
    """Frames ``start`` to ``start + num_frames`` of the endless clip of a scene.

    Args:
      scene: see :func:`~helios_jax.world.scenes.sample_scene`.
      num_frames: how many.
      height, width: pixels.
      fps: frames per second; motions are given by the second.
      start: the first frame's number.

    Raises:
      ValueError: if the frame is too small for the shapes to be seen.
    """
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"frames of {width}x{height} pixels are too small for the shapes; sides must be at "
            f"least {SMALLEST}"
        )
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for first in range(0, num_frames, FRAMES_AT_ONCE):
        part = frames[first : first + FRAMES_AT_ONCE]
        times = (start + first + np.arange(len(part))) / fps
        canvas = _draw_background(scene, times, height, width)
        for thing in scene.objects:
            _draw_object(canvas, thing, scene.camera, times)
        part[:] = canvas + 0.5
    return frames


def _draw_background(
    scene: Scene, times: Float[np.ndarray, "F"], height: int, width: int
) -> Float[np.ndarray, "F Y X 3"]:
    moved = pan(scene.camera, times)
    background = scene.background
    unit = min(height, width)
    still = scene.camera == "still"
    along_y = profile(background, "y", height, unit, moved[:, 1], still)[:, :, None]
    along_x = profile(background, "x", width, unit, moved[:, 0], still)[:, None]
    # The second colour is where one of the two profiles shows it, but not where both do.
    share = along_y + along_x - 2 * along_y * along_x
    low = np.array(BACKGROUND_COLORS[background.colors[0]], np.float32)
    high = np.array(BACKGROUND_COLORS[background.colors[-1]], np.float32)
    return low + share.astype(np.float32)[..., None] * (high - low)


def profile(
    background: Background,
    axis: str,
    size: int,
    unit: int,
    moved: Float[np.ndarray, "F"],
    still: bool,
) -> Float[np.ndarray, "F size"]:
    """The second colour's share along one axis.

    The shares y and x along the two axes make up ``y + x - 2 y x`` of a pixel.

    Args:
      background: its colours are not used.
      axis: "x" or "y".
      size: pixels along this axis.
      unit: pixels of the frame's shorter side.
      moved: how far the camera has gone along this axis, in units.
      still: whether the camera stays; a gradient then goes from end to end once. Under a pan it
        goes there and back, so that both colours are always in sight.
    """
    if background.kind == "plain" or background.axis not in ("", axis):
        return np.zeros((len(moved), size))
    place = (np.arange(size) + 0.5) / unit + moved[:, None]
    if background.kind == "gradient":
        cycles = place * unit / size / (2 if still else 1) + background.phase
        return 1 - np.abs(1 - 2 * (cycles % 1))
    cycles = place / PERIOD + background.phase
    pixel = 1 / unit / PERIOD
    # The average over a pixel is the difference of the integral at its sides.
    return (_square_integral(cycles + pixel / 2) - _square_integral(cycles - pixel / 2)) / pixel


def _square_integral(cycles: Float[np.ndarray, "*P"]) -> Float[np.ndarray, "*P"]:
    """Integral of the square wave that is 0 in the first half of each cycle and 1 in the second."""
    return cycles // 1 / 2 + np.maximum(cycles % 1 - 0.5, 0)


def _draw_object(
    canvas: Float[np.ndarray, "F Y X 3"], thing: Object, camera: str, times: Float[np.ndarray, "F"]
) -> None:
    """Blend an object in, in a square around it that wraps around the frame."""
    height, width = canvas.shape[1:3]
    unit = min(height, width)
    middle = unit * centre(thing, times, camera, (width / unit, height / unit))
    size = unit * radius(thing, times)
    half = int(np.ceil(BOUND * size.max())) + 1
    corner = np.floor(middle).astype(int) - half
    cells = corner[:, None] + np.arange(2 * half + 1)[:, None]  # [F, cells, 2]
    scaled = ((cells + 0.5 - middle[:, None]) / size[:, None, None]).astype(np.float32)
    right = scaled[:, None, :, 0]
    down = scaled[:, :, None, 1]
    turn = angle(thing, times).astype(np.float32)[:, None, None]
    x = right * np.cos(turn) + down * np.sin(turn)
    y = down * np.cos(turn) - right * np.sin(turn)
    distance = signed_distance(thing.shape, x, y) * size.astype(np.float32)[:, None, None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    where = (
        np.arange(len(times))[:, None, None],
        cells[:, :, None, 1] % height,
        cells[:, None, :, 0] % width,
    )
    behind = canvas[where]
    canvas[where] = behind + cover * (np.array(COLORS[thing.color], np.float32) - behind)
