"""Statistics over the chunks of a video, drawn as curves in an SVG file."""

import html
import math
import os
from collections.abc import Sequence

from helios_jax.sampling.statistics import Row
from helios_jax.writers import write_whole

PLOT_WIDTH = 640
PLOT_HEIGHT = 84
LEFT = 64
RIGHT = 24
TITLE = 26
AXIS = 40
"""Pixels: of a plot, beside it, above it for its title, and below the last one for the chunks."""

TICKS = 8
"""Labels of the horizontal axis, at most."""

TITLES = {
    "latents_mean": "mean of the latents (0 over all videos)",
    "latents_std": "standard deviation of the latents (1 over all videos)",
    "latents_extreme": "share of latents beyond 3 standard deviations",
    "clipped": "share of colours at either end of their range",
    "drift_mean": "drift: distance of the mean",
    "drift_variance": "drift: distance of the variance",
    "corrupted": "corrupted for drift (0 no, 1 yes)",
}
"""What stands above a plot."""

COLORS = ("#1f6fb2", "#c8501e", "#2b8a3e", "#8a4fb0", "#b08800", "#c2337a", "#4d6a78", "#7a5230")
"""Of the videos, in turn."""


def save_curves(path: str | os.PathLike, rows: Sequence[Row], across: str = "chunk") -> None:
    """Draw each statistic over the chunks, a line for each video.

    Args:
      path: an .svg file.
      rows: with the columns ``chunk`` and ``video``.
      across: what the column ``chunk`` counts.
    """
    names = [name for name in rows[0] if name not in ("chunk", "video")]
    videos = sorted({int(row["video"]) for row in rows})
    top = TITLE if len(videos) > 1 else 0
    width = LEFT + PLOT_WIDTH + RIGHT
    height = top + len(names) * (PLOT_HEIGHT + TITLE) + AXIS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    if len(videos) > 1:
        parts += _legend(videos)
    for name in names:
        parts += _plot(rows, name, videos, top + TITLE)
        top += PLOT_HEIGHT + TITLE
    parts += _axis(rows, top, across)
    write_whole(path, "\n".join([*parts, "</svg>\n"]).encode())


def _legend(videos: Sequence[int]) -> list[str]:
    """The colours of the first videos, as many as have one of their own."""
    parts = []
    for place, video in enumerate(videos[: len(COLORS)]):
        x = LEFT + 80 * place
        parts.append(f'<path d="M{x} 13h16" stroke="{COLORS[place]}" stroke-width="1.8"/>')
        parts.append(f'<text x="{x + 21}" y="17">video {video}</text>')
    return parts


def _plot(rows: Sequence[Row], name: str, videos: Sequence[int], top: int) -> list[str]:
    """Title, frame, range and lines of one statistic, below ``top``."""
    values = [row[name] for row in rows]
    low = min(values)
    high = max(values)
    title = html.escape(TITLES.get(name, name))
    parts = [
        f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{title}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" fill="none" '
        'stroke="#bbb"/>',
    ]
    for y, value in ((top + 10, high), (top + PLOT_HEIGHT, low)):
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{value:.4g}</text>')
    room = PLOT_HEIGHT - 8
    for place, video in enumerate(videos):
        points = []
        for row in rows:
            if row["video"] == video:
                share = (row[name] - low) / (high - low) if high > low else 0.5
                points.append((_x(rows, row["chunk"]), top + 4 + room * (1 - share)))
        parts.append(_line(points, COLORS[place % len(COLORS)]))
    return parts


def _axis(rows: Sequence[Row], top: int, across: str) -> list[str]:
    """The numbers of the chunks below the last plot, and what they are."""
    last = int(max(row["chunk"] for row in rows))
    step = math.ceil((last + 1) / TICKS)
    parts = []
    for chunk in range(0, last + 1, step):
        x = _x(rows, chunk)
        parts.append(f'<path d="M{x:.1f} {top}v5" stroke="#bbb"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + 18}" text-anchor="middle">{chunk}</text>')
    middle = LEFT + PLOT_WIDTH / 2
    parts.append(f'<text x="{middle}" y="{top + 34}" text-anchor="middle">{across}</text>')
    return parts


def _x(rows: Sequence[Row], chunk: float | int) -> float:
    """Where a chunk stands; one alone in the middle."""
    last = max(row["chunk"] for row in rows)
    return LEFT + PLOT_WIDTH * (chunk / last if last else 0.5)


def _line(points: Sequence[tuple[float | int, float | int]], color: str) -> str:
    """A line through points, or a dot for one alone."""
    if len(points) == 1:
        [(x, y)] = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>'
