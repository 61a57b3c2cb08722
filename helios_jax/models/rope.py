"""Rotary tables over (t, y, x), and their averages for coarse history tokens.

The 64 pairs of a head are split between the three axes, 22 + 21 + 21 in the released model, and a
pair depends on one axis only. So a table over a grid is three small tables, and to average it over
blocks of the grid, as for the mid and long history, is to average each along its axis.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from helios_jax.types import Array, Float


def rope_table(
    frames: tuple[int, ...],
    rows: int,
    columns: int,
    *,
    rope_dim: tuple[int, int, int],
    theta: float,
    pool: int = 1,
) -> tuple[Float[Array, "N pairs"], Float[Array, "N pairs"]]:
    """Cosines and sines of one segment's tokens, in frame, row, column order.

    The angle of pair i of an axis with d channels is position · theta^(-2i/d). With ``pool`` > 1,
    cosines and sines (not angles) are averaged over pool x pool x pool blocks of the grid, whose
    last plane is repeated where a block is incomplete; such pairs have norm < 1.

    Args:
      frames: frame index of each latent frame.
      rows, columns: the fine token grid; positions are 0..rows-1 and 0..columns-1.
      rope_dim: channels of the (t, y, x) axes.
      theta: base of the frequencies.
      pool: side of the averaged blocks.

    Returns:
      cos, sin: float32, one row a token after averaging.
    """
    cosines = []
    sines = []
    for positions, channels in zip((frames, range(rows), range(columns)), rope_dim, strict=True):
        cos, sin = _axis_table(positions, channels, theta, pool)
        cosines.append(cos)
        sines.append(sin)
    return _over_grid(cosines), _over_grid(sines)


def _axis_table(
    positions: Sequence[int], channels: int, theta: float, pool: int
) -> tuple[Float[np.ndarray, "n pairs"], Float[np.ndarray, "n pairs"]]:
    """Cosines and sines of one axis, float32, averaged over ``pool`` positions."""
    frequencies = np.float32(1) / np.power(
        np.float32(theta), np.arange(0, channels, 2, dtype=np.float32) / np.float32(channels)
    )
    # The product is rounded to float32 before its cosine is taken, as PyTorch does: at position 80
    # that rounding is 4e-6 of an angle.
    angles = (np.asarray(positions, np.float32)[:, None] * frequencies).astype(np.float64)
    return _averaged(np.cos(angles), pool), _averaged(np.sin(angles), pool)


def _averaged(table: np.ndarray, pool: int) -> np.ndarray:
    """Means of ``pool`` rows each, float32; the last row is repeated where some are missing."""
    table = np.pad(table, ((0, -len(table) % pool), (0, 0)), mode="edge")
    return table.reshape(-1, pool, table.shape[-1]).mean(axis=1).astype(np.float32)


def _over_grid(tables: list[np.ndarray]) -> Float[Array, "N pairs"]:
    """Each axis' table repeated over the other two axes, and all joined.

    They are repeated by the program, which holds only the small tables.
    """
    grid = [len(table) for table in tables]
    repeated = []
    for axis, table in enumerate(tables):
        others = [other for other in range(3) if other != axis]
        table = jnp.expand_dims(jnp.asarray(table), others)
        repeated.append(jnp.broadcast_to(table, (*grid, table.shape[-1])))
    joined = jnp.concatenate(repeated, axis=-1)
    return joined.reshape(-1, joined.shape[-1])
