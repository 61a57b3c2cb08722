"""Rotary tables over (t, y, x), and their averages for coarse history tokens.

The 64 pairs of a head are split between the three axes, 22 + 21 + 21 in the released model, and a
pair depends on one axis only. So a table over a grid is three small tables, and averaging a table
over blocks of the grid, which the mid and long history does, is averaging each along its axis.
"""

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

    Angle of pair i of an axis with d channels: position · theta^(-2i/d). With ``pool`` > 1 the
      cosines and the sines (not the angles) are averaged
    over pool x pool x pool blocks of the grid, its last plane repeated where a block is incomplete;
    such pairs have norm < 1.

    Args:
      frames: frame index of each latent frame.
      rows, columns: the fine token grid; positions are 0..rows-1 and 0..columns-1.
      rope_dim: channels of the (t, y, x) axes.
      theta: base of the frequencies.
      pool: side of the averaged blocks.

    Returns:
      cos, sin: float32, one row a token after averaging.
    """
    axes = [
        _axis_table(positions, channels, theta, pool)
        for positions, channels in zip((frames, range(rows), range(columns)), rope_dim, strict=True)
    ]
    grid = tuple(len(cos) for cos, _ in axes)
    cos, sin = ([axis[part] for axis in axes] for part in (0, 1))
    return _over_grid(cos, grid), _over_grid(sin, grid)


def _axis_table(positions, channels: int, theta: float, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """[positions / pool, channels / 2] float32 cosines and sines of one axis."""
    frequencies = np.float32(1) / np.power(
        np.float32(theta), np.arange(0, channels, 2, dtype=np.float32) / np.float32(channels)
    )
    # The product is rounded to float32 before its cosine is taken, as PyTorch does: at position 80
    # that rounding is 4e-6 of an angle.
    angles = (np.asarray(positions, np.float32)[:, None] * frequencies).astype(np.float64)
    averaged = []
    for table in (np.cos(angles), np.sin(angles)):
        table = np.pad(table, ((0, -len(table) % pool), (0, 0)), mode="edge")
        averaged.append(table.reshape(-1, pool, table.shape[-1]).mean(axis=1).astype(np.float32))
    return tuple(averaged)


def _over_grid(tables: list[np.ndarray], grid: tuple[int, int, int]) -> Float[Array, "N pairs"]:
    """Each axis' table repeated over the other two axes, in the graph, and joined: the program
    holds only the small tables.
    """
    spread = [
        jnp.broadcast_to(
            jnp.expand_dims(jnp.asarray(table), [other for other in range(3) if other != axis]),
            (*grid, table.shape[-1]),
        )
        for axis, table in enumerate(tables)
    ]
    return jnp.concatenate(spread, axis=-1).reshape(-1, sum(table.shape[-1] for table in tables))
