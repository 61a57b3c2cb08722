"""Statistics of each chunk: what drifts in a long video, as a table."""

import contextlib
import csv
import io
import math
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.drift import DriftDecision
from helios_jax.media.measures import chunk_means
from helios_jax.readers import ReadError, read_csv
from helios_jax.types import Array, Float
from helios_jax.writers import write_whole

Row = dict[str, float | int]

MAX_ROWS = 100_000
"""Chunks of a video, and videos of a table, that can be read."""


@jax.jit
def measure_latents(latents: Float[Array, "B T H W C"]) -> dict[str, Float[Array, "B"]]:
    """Mean and standard deviation of each video's latents, and the share beyond 3 in absolute
    value, ``latents_extreme``.

    Over all videos, latents in model space have mean 0 and deviation 1.
    """
    axes = (1, 2, 3, 4)
    latents = latents.astype(jnp.float32)
    return {
        "latents_mean": latents.mean(axes),
        "latents_std": latents.std(axes),
        "latents_extreme": (jnp.abs(latents) > 3).mean(axes, dtype=jnp.float32),
    }


def chunk_rows(
    chunk: int,
    latents: Array | np.ndarray,
    frames: Array | np.ndarray | None = None,
    drift: DriftDecision | None = None,
) -> list[Row]:
    """The statistics of a chunk, as one row for each video.

    Args:
      chunk: its index.
      latents: [B, T, H, W, C], in model space.
      frames: [B, F, Y, X, 3], uint8 or in [0, 1]; None leaves their figures out, which are
        :func:`~helios_jax.media.measures.chunk_means`: those of ``helios-jax bench score``.
      drift: the decision about the chunk's drift, if it is controlled.
    """
    columns = dict(measure_latents(latents))
    if drift is not None:
        columns["drift_mean"] = drift.mean
        columns["drift_variance"] = drift.variance
        columns["corrupted"] = drift.corrupted
    columns = jax.device_get(columns)
    rows = []
    for video in range(len(latents)):
        row: Row = {"chunk": chunk, "video": video}
        row |= {name: float(column[video]) for name, column in columns.items()}
        if frames is not None:
            row |= _measure_frames(np.asarray(frames[video]))
        rows.append(row)
    return rows


def _measure_frames(frames: np.ndarray) -> dict[str, float]:
    """Figures of a video's frames, by the host, whose accelerator makes the next chunk."""
    if frames.dtype != np.uint8:
        frames = np.round(frames.astype(np.float32) * 255).astype(np.uint8)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RuntimeError):  # where JAX was told to leave the CPU alone
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        return chunk_means(frames)


def save_statistics(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Write rows as CSV; the file appears whole, replacing an older one, so that it can be written
    again after every chunk.

    Raises:
      ReadError: if the first rows, read from an older file, have other columns than the last.
      WriteError: if it cannot be written.
    """
    if rows[0].keys() != rows[-1].keys():
        raise ReadError(path, "has other columns than are measured now: name another file")
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_whole(path, file.getvalue().encode())


def load_statistics(path: str | os.PathLike) -> list[Row]:
    """Read what :func:`save_statistics` wrote.

    Raises:
      ReadError: if the file is no such table.
    """
    rows = []
    for number, cells in enumerate(read_csv(path), 1):
        row: Row = {}
        for name, cell in cells.items():
            row[name] = _number(path, f"row {number}: {name}", cell)
        for name in ("chunk", "video"):
            place = row.get(name, -1)
            if not 0 <= place < MAX_ROWS or place != int(place):
                raise ReadError(path, f"row {number}: {name} must be a number from 0")
            row[name] = int(place)
        rows.append(row)
    return rows


def _number(path: str | os.PathLike, where: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ReadError(path, f"{where}={cell[:50]!r} is not a number")
    return value
