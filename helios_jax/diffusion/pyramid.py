"""Going down and up the pyramid of resolutions."""

import functools
import math
import operator

from einops import rearrange, repeat

from helios_jax.types import Array, Float

BLOCK = 2
"""Side of the blocks in which renoising is correlated: one coarse cell, upsampled."""


def downsample(latents: Float[Array, "B T H W C"]) -> Float[Array, "B T H//2 W//2 C"]:
    """The mean of 2 x 2 cells, which is what halving by bilinear interpolation comes to."""
    return _block_mean(latents)


def downsample_noise(noise: Float[Array, "B T H W C"]) -> Float[Array, "B T H//2 W//2 C"]:
    """The mean of 2 x 2 cells, times 2: unit noise stays unit noise."""
    return 2 * _block_mean(noise)


def upsample(latents: Float[Array, "B T H W C"]) -> Float[Array, "B T 2*H 2*W C"]:
    """Each cell four times."""
    return repeat(latents, "b t h w c -> b t (h dy) (w dx) c", dy=BLOCK, dx=BLOCK)


def block_noise(noise: Float[Array, "B T H W C"], gamma: float) -> Float[Array, "B T H W C"]:
    """Unit noise in which the four cells of a 2 x 2 block have correlation -gamma, from independent
    unit noise.

    The covariance of a block, (1 + gamma) I - gamma 11ᵀ, has eigenvalue 1 - 3 gamma along the
    block's mean and 1 + gamma across it. Its symmetric square root scales the two parts apart, and
    is exact at gamma = 1/3, where the matrix is singular and the four cells sum to zero.
    """
    mean = upsample(_block_mean(noise))
    return math.sqrt(1 + gamma) * (noise - mean) + math.sqrt(max(1 - 3 * gamma, 0.0)) * mean


def renoise_weights(original_start_sigma: float, gamma: float) -> tuple[float, float]:
    """Weights (alpha, beta) of upsampled latents and of block noise that start a stage.

    With s = original_start_sigma: alpha = 1 / (sqrt(1 + 1/gamma) s + 1 - s), beta = alpha s /
    sqrt(gamma). The noise breaks up the 2 x 2 blocks that nearest upsampling leaves, so that the
    sum has the covariance of white noise at the stage's start sigma (Pyramidal flow matching, Jin
    et al. 2024, eq. 15).
    """
    alpha = 1 / (math.sqrt(1 + 1 / gamma) * original_start_sigma + 1 - original_start_sigma)
    return alpha, alpha * original_start_sigma / math.sqrt(gamma)


def renoise(
    latents: Float[Array, "B T H W C"],
    correlated: Float[Array, "B T 2*H 2*W C"],
    original_start_sigma: float,
    gamma: float,
) -> Float[Array, "B T 2*H 2*W C"]:
    """The start point of a stage, from the end point of the one before it and correlated block
    noise.
    """
    alpha, beta = renoise_weights(original_start_sigma, gamma)
    return alpha * upsample(latents) + beta * correlated.astype(latents.dtype)


def stage_grids(height: int, width: int, stages: int) -> list[tuple[int, int]]:
    """Latent rows and columns of every stage, coarsest first."""
    return [(height >> level, width >> level) for level in reversed(range(stages))]


def stage_tokens(
    shape: tuple[int, int, int], stages: int, patch_size: tuple[int, int, int]
) -> list[int]:
    """Noisy tokens of every stage, coarsest first.

    Args:
      shape: (T, H, W) of the latents at full resolution.
      stages: of the pyramid.
      patch_size: of the transformer, over (T, H, W); patches span one latent frame.
    """
    T, H, W = shape
    _, patch_rows, patch_columns = patch_size
    return [
        T * (rows // patch_rows) * (columns // patch_columns)
        for rows, columns in stage_grids(H, W, stages)
    ]


def _block_mean(x: Float[Array, "B T H W C"]) -> Float[Array, "B T H//2 W//2 C"]:
    """Mean of each block, in one order of summation whatever the shape: a sample's noise must not
    depend on its batch.
    """
    cells = rearrange(x, "b t (h dy) (w dx) c -> (dy dx) b t h w c", dy=BLOCK, dx=BLOCK)
    return functools.reduce(operator.add, cells) / BLOCK**2
