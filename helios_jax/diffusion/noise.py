"""All noise of a chunk, drawn apart from its use."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.diffusion.pyramid import block_noise, stage_grids
from helios_jax.types import Array, Float, Int, Key, PRNGKeyArray


class ChunkNoise(NamedTuple):
    """The noise of one chunk.

    Attributes:
      latents: unit noise at full resolution, from which every stage of the first resolution starts.
      blocks: correlated unit noise for each stage after the first, coarsest first.
    """

    latents: Float[Array, "B T H W C"]
    blocks: tuple[Float[Array, "B T _ _ C"], ...]


def draw_chunk_noise(
    keys: Key[Array, "B"], chunk: Int[Array, ""] | int, shape: tuple[int, int, int, int], stages: int, gamma: float
) -> ChunkNoise:
    """The noise of a chunk; a sample's depends on its own key, the chunk and the stage only, not on the batch it is in.

    Args:
      keys: [B] one key a sample.
      chunk: index of the chunk in the video.
      shape: (T, H, W, C) of the chunk's latents.
      stages: of the pyramid; 1 draws no block noise.
      gamma: correlation inside a block.
    """
    T, H, W, C = shape

    def draw(stage, size):
        return jax.vmap(lambda key: jax.random.normal(_stage_key(key, chunk, stage), size, jnp.float32))(keys)

    blocks = [block_noise(draw(stage, (T, *grid, C)), gamma) for stage, grid in enumerate(stage_grids(H, W, stages)) if stage > 0]
    return ChunkNoise(draw(0, (T, H, W, C)), tuple(blocks))


def _stage_key(key: PRNGKeyArray, chunk: Int[Array, ""] | int, stage: int) -> PRNGKeyArray:
    """The key of one draw."""
    return jax.random.fold_in(jax.random.fold_in(key, chunk), stage)
