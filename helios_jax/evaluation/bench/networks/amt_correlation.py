"""The correlation of two frames' features at all pairs of positions, and windows of it."""

import functools

import jax
import jax.numpy as jnp

from helios_jax.types import Array, Float

LEVELS = 4
RADIUS = 3
WINDOW = 2 * RADIUS + 1

_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

Pyramid = list[Float[Array, "B P _ _"]]
"""Correlation of each of P positions with all positions of maps that halve from one to the next."""


def correlation(one: Float[Array, "B Y X C"], other: Float[Array, "B Y X C"]) -> Pyramid:
    """``one[p] . other[q] / sqrt(C)``, and its means over 2x2, 4x4 and 8x8 of q.

    A mean over q is the correlation with the mean of ``other``, so that only small maps are
    averaged.
    """
    batch, height, width, channels = one.shape
    one = one.reshape(batch, height * width, channels).astype(jnp.float32) * channels**-0.5
    other = other.astype(jnp.float32)
    levels = []
    for level in range(LEVELS):
        if level:
            other = _halve(other)
        levels.append(_product("bpc,byxc->bpyx", one, other))
    return levels


def look_up(pyramid: Pyramid, centres: Float[Array, "B Y X 2"]) -> Float[Array, "B Y X K"]:
    """7x7 values around ``centres`` (x, y) at each level, bilinear, zero outside.

    Of a level's 49 values, offsets in x change slowest: value ``7 i + j`` is that at
    ``(x + i - 3, y + j - 3)``, with x and y in pixels of the level.
    """
    batch, height, width, _ = centres.shape
    flat = centres.reshape(batch * height * width, 2)
    windows = []
    for level, values in enumerate(pyramid):
        maps = values.reshape(batch * height * width, *values.shape[2:])
        windows.append(_window(maps, flat / 2**level))
    stacked = [window.reshape(batch, height, width, WINDOW**2) for window in windows]
    return jnp.concatenate(stacked, axis=-1)


@jax.vmap
def _window(values: Float[Array, "Y X"], centre: Float[Array, "2"]) -> Float[Array, "K K"]:
    """``[i, j]`` is the value at ``centre + (i - 3, j - 3)``, all as far between pixels as one."""
    height, width = values.shape
    # Beyond these places, too, a window is zero.
    least = jnp.full((2,), -WINDOW, jnp.float32)
    most = jnp.array([width + WINDOW, height + WINDOW], jnp.float32)
    corner = jnp.clip(centre, least, most) - RADIUS
    first = jnp.floor(corner)
    share = corner - first
    columns, rows = first.astype(jnp.int32)[:, None] + jnp.arange(WINDOW + 1)[None]
    rows = jnp.where(rows < 0, height, rows)  # an index below zero would count from the end
    columns = jnp.where(columns < 0, width, columns)
    found = values.at[rows[None, :], columns[:, None]].get(mode="fill", fill_value=0)
    found = found[:-1] * (1 - share[0]) + found[1:] * share[0]
    return found[:, :-1] * (1 - share[1]) + found[:, 1:] * share[1]


def _halve(x: Float[Array, "B Y X C"]) -> Float[Array, "B y x C"]:
    """Means of 2x2; an odd last row or column is dropped."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
