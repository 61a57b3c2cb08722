"""Optical flow without weights: how far the picture moves from one frame to the next.

Polynomial expansion (Farneback 2003), on a picture of some 192 rows.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

LEVELS = 4
"""Pictures in the pyramid, each half the size of the one before."""
SMALLEST = 32
"""Rows or columns that the smallest has at least."""
ITERATIONS = 3
"""At each level."""
WINDOW = 15
"""Pixels of the square whose pixels are taken to move alike."""
RADIUS = 5
"""Of the neighbourhood that a quadratic form describes."""
SIGMA = 1.2
"""Of its Gaussian weights."""
SIDE = 192
"""Pixels of the shorter side that the plain method works on."""
DAMPING = 1e-3
"""Added to the determinant, as in OpenCV: what has no texture counts as still."""


class PairFlow(NamedTuple):
    """What is kept of the flow between two frames, in pixels a frame of the given picture."""

    x: float
    y: float
    length: float


def plain_flow(first: UInt8[np.ndarray, "Y X"], second: UInt8[np.ndarray, "Y X"]) -> PairFlow:
    """The flow of a picture reduced to some 192 rows, in pixels of the given one."""
    side = max(min(first.shape) // SIDE, 1)
    flow = expansion_flow(_smaller(first, side), _smaller(second, side))
    return PairFlow(*(side * value for value in reduce_flow(np.asarray(flow))))


def reduce_flow(flow: Float[np.ndarray, "Y X 2"]) -> PairFlow:
    """The mean components of a flow, and its mean length."""
    x, y = flow.mean((0, 1))
    return PairFlow(float(x), float(y), float(np.hypot(flow[..., 0], flow[..., 1]).mean()))


@jax.jit
def expansion_flow(
    first: Float[Array, "Y X"], second: Float[Array, "Y X"]
) -> Float[Array, "Y X 2"]:
    """Displacements (x, y) with ``first[p] = second[p + flow[p]]``, in pixels.

    Around each pixel brightness is a quadratic form ``x'Ax + b'x + c``. Where it moves by d, b
    becomes ``b - 2Ad``; d is the least-squares solution over a window, found coarse to fine.

    Args:
      first, second: brightness, 0 to 255.
    """
    pyramid = [(first, second)]
    while len(pyramid) < LEVELS and min(pyramid[-1][0].shape) >= 2 * SMALLEST:
        pyramid.append((_halve(pyramid[-1][0]), _halve(pyramid[-1][1])))
    flow = jnp.zeros((*pyramid[-1][0].shape, 2))
    for one, two in reversed(pyramid):
        if flow.shape[:2] != one.shape:
            flow = 2 * jax.image.resize(flow, (*one.shape, 2), "linear")
        before = expand(one)
        after = expand(two)
        for _ in range(ITERATIONS):
            flow = _solve(before, after, flow)
    return flow


def expand(image: Float[Array, "Y X"]) -> Float[Array, "5 Y X"]:
    """The coefficients of x, y, x^2, y^2 and xy around each pixel, weighted by a Gaussian."""
    x = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-(x**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    second = (weights * x**2).sum()
    fourth = (weights * x**4).sum()
    padded = jnp.pad(image, RADIUS, mode="edge")
    down = [_correlate(padded, weights * x**power, axis=0) for power in range(3)]
    # without the barrier XLA computes each of them again for each of its uses
    none, once, twice = jax.lax.optimization_barrier(down)
    mean, by_x, by_xx = (_correlate(none, weights * x**power, axis=1) for power in range(3))
    by_y, by_xy = (_correlate(once, weights * x**power, axis=1) for power in range(2))
    by_yy = _correlate(twice, weights, axis=1)
    spread = fourth - second**2
    squares = [(by_xx - second * mean) / spread, (by_yy - second * mean) / spread]
    return jnp.stack([by_x / second, by_y / second, *squares, by_xy / second**2])


def _solve(
    before: Float[Array, "5 Y X"], after: Float[Array, "5 Y X"], flow: Float[Array, "Y X 2"]
) -> Float[Array, "Y X 2"]:
    """The displacement that explains how the linear terms changed, on top of ``flow``."""
    there = _warp(after, flow)
    _, _, xx, yy, xy = (before + there) / 2
    xy = xy / 2
    x = flow[..., 0]
    y = flow[..., 1]
    change_x = (before[0] - there[0]) / 2 + xx * x + xy * y
    change_y = (before[1] - there[1]) / 2 + xy * x + yy * y
    products = [xx * xx + xy * xy, xy * (xx + yy), xy * xy + yy * yy]
    products += [xx * change_x + xy * change_y, xy * change_x + yy * change_y]
    g_xx, g_xy, g_yy, h_x, h_y = _window_mean(jnp.stack(products))
    determinant = g_xx * g_yy - g_xy**2 + DAMPING
    return (
        jnp.stack([g_yy * h_x - g_xy * h_y, g_xx * h_y - g_xy * h_x], -1) / determinant[..., None]
    )


def _correlate(image: Float[Array, "Y X"], weights: np.ndarray, axis: int) -> Float[Array, "y x"]:
    """Weighted sums along an axis, where all weights have a pixel.

    Slices are added: XLA's convolution takes 50 times as long on a CPU (40 ms at 240x416).
    """
    length = image.shape[axis] - len(weights) + 1
    parts = (
        weight * jax.lax.slice_in_dim(image, start, start + length, axis=axis)
        for start, weight in enumerate(weights.tolist())
    )
    return functools.reduce(jnp.add, parts)


def _window_mean(images: Float[Array, "N Y X"]) -> Float[Array, "N Y X"]:
    """Mean over a square; beyond the border the image is repeated."""
    margin = WINDOW // 2
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    total = functools.partial(
        jax.lax.reduce_window,
        init_value=0.0,
        computation=jax.lax.add,
        window_strides=(1, 1, 1),
        padding="VALID",
    )
    rows = total(padded, window_dimensions=(1, WINDOW, 1))
    return total(rows, window_dimensions=(1, 1, WINDOW)) / WINDOW**2


def _warp(images: Float[Array, "N Y X"], flow: Float[Array, "Y X 2"]) -> Float[Array, "N Y X"]:
    """Bilinear; beyond the border stand the pixels of the border."""
    height, width = images.shape[1:]
    row = jnp.arange(height, dtype=flow.dtype)
    column = jnp.arange(width, dtype=flow.dtype)
    y = jnp.clip(row[:, None] + flow[..., 1], 0, height - 1)
    x = jnp.clip(column[None] + flow[..., 0], 0, width - 1)
    top = jnp.minimum(y.astype(jnp.int32), height - 2)
    left = jnp.minimum(x.astype(jnp.int32), width - 2)
    y = y - top.astype(y.dtype)
    x = x - left.astype(x.dtype)
    flat = images.reshape(len(images), -1).T  # one gather fetches all coefficients of a pixel
    place = top * width + left
    upper = flat[place] * (1 - x)[..., None] + flat[place + 1] * x[..., None]
    place = place + width
    lower = flat[place] * (1 - x)[..., None] + flat[place + 1] * x[..., None]
    return jnp.moveaxis(upper * (1 - y)[..., None] + lower * y[..., None], -1, 0)


def _halve(image: Float[Array, "Y X"]) -> Float[Array, "y x"]:
    """Means of squares of four; an odd row or column is left out."""
    height, width = image.shape
    return _block_mean(image, 2)[: height // 2, : width // 2]


def _smaller(image: UInt8[np.ndarray, "Y X"], side: int) -> Float[np.ndarray, "y x"]:
    return np.asarray(_block_mean(image.astype(np.float32), side))


def _block_mean(image, side: int):
    height, width = (length // side * side for length in image.shape)
    blocks = image[:height, :width].reshape(height // side, side, width // side, side)
    return blocks.mean((1, 3))
