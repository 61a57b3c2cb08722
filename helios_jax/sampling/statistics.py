"""Statistics of each chunk: what drifts in a long video, as a table and as curves."""

import csv
import html
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from helios_jax.diffusion.drift import DriftDecision
from helios_jax.media.output import staged
from helios_jax.types import Array, Float

Row = dict[str, float | int]


@jax.jit
def measure_chunk(
    latents: Float[Array, "B T H W C"], frames: Array | None = None
) -> dict[str, Float[Array, "B"]]:
    """Statistics of a chunk of each video.

    Args:
      latents: in model space, where they would have mean 0 and deviation 1 over all videos.
      frames: [B, F, Y, X, 3], uint8 or in [0, 1]; None leaves theirs out.

    Returns:
      Mean and standard deviation of latents and frames; ``latents_extreme``, the share beyond 3 in
      absolute value; ``frames_saturation``, the mean saturation of HSV, (max - min) / max of the
      three colours; ``frames_clipped``, the share of values at either end of the range.
    """
    axes = (1, 2, 3, 4)
    latents = latents.astype(jnp.float32)
    found = {
        "latents_mean": latents.mean(axes),
        "latents_std": latents.std(axes),
        "latents_extreme": (jnp.abs(latents) > 3).mean(axes, dtype=jnp.float32),
    }
    if frames is None:
        return found
    pixels = frames.astype(jnp.float32) / (255 if frames.dtype == jnp.uint8 else 1)
    top = pixels.max(-1)
    return found | {
        "frames_mean": pixels.mean(axes),
        "frames_std": pixels.std(axes),
        "frames_saturation": ((top - pixels.min(-1)) / jnp.maximum(top, 1e-3)).mean((1, 2, 3)),
        "frames_clipped": ((pixels <= 0) | (pixels >= 1)).mean(axes, dtype=jnp.float32),
    }


def chunk_rows(
    chunk: int, latents: Array, frames: Array | None = None, drift: DriftDecision | None = None
) -> list[Row]:
    """The statistics of a chunk, and the decision about its drift, as one row for each video."""
    columns = dict(measure_chunk(latents, frames))
    if drift is not None:
        columns |= {
            "drift_mean": drift.mean,
            "drift_variance": drift.variance,
            "corrupted": drift.corrupted,
        }
    columns = jax.device_get(columns)
    return [
        {"chunk": chunk, "video": video}
        | {name: float(column[video]) for name, column in columns.items()}
        for video in range(len(latents))
    ]


def save_statistics(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Write rows as CSV; the file appears whole, replacing an older one, so that it can be written
    again after every chunk.
    """
    with (
        staged(Path(os.path.abspath(path))) as partial,
        open(partial, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def load_statistics(path: str | os.PathLike) -> list[Row]:
    """Read what :func:`save_statistics` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def save_curves(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Draw each statistic over the chunks, a line for each video, as SVG."""
    width, height, left, gap = 640, 90, 150, 20
    videos, last = (
        1 + int(max(row["video"] for row in rows)),
        max(*(row["chunk"] for row in rows), 1),
    )
    names = [name for name in rows[0] if name not in ("chunk", "video")]
    size = f'width="{left + width + gap}" height="{gap + len(names) * (height + gap)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="none">'
    ]
    for number, name in enumerate(names):
        top = gap + number * (height + gap)
        low, high = min(row[name] for row in rows), max(row[name] for row in rows)
        for offset, text in (
            (8, f"{high:.4g}"),
            (height / 2, html.escape(name)),
            (height, f"{low:.4g}"),
        ):
            parts.append(
                f'<text x="{left - 8}" y="{top + offset}" text-anchor="end" fill="black">{text}</text>'
            )
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" stroke="#ccc"/>'
        )
        for video in range(videos):
            own = [row for row in rows if row["video"] == video]
            x = [left + width * row["chunk"] / last for row in own]
            y = [top + height * (high - row[name]) / ((high - low) or 1) for row in own]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x, y))
            parts.append(
                f'<polyline points="{points}" stroke="hsl({360 * video // videos}, 70%, 45%)" stroke-width="1.5"/>'
            )
    text = "\n".join([*parts, "</svg>\n"])
    with staged(Path(os.path.abspath(path))) as partial:
        partial.write_text(text, encoding="utf-8")
