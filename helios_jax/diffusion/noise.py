"""The noise of a chunk, drawn apart from its use, and the samples that its stages start from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.pyramid import block_noise, downsample_noise, renoise, stage_grids
from helios_jax.diffusion.schedules import stage_tables
from helios_jax.types import Array, Float, Int, Key, PRNGKeyArray


def mix(
    data: Float[Array, "*shape"], noise: Float[Array, "*shape"], sigma: Float[Array, "..."] | float
) -> Float[Array, "*shape"]:
    """(1 - sigma) data + sigma noise: the point of the straight path at noise level sigma.

    ``sigma`` broadcasts against the data: a number, or an array with an axis of 1 for every axis
    that it does not vary along.
    """
    return (1 - sigma) * data + sigma * noise


class ChunkNoise(NamedTuple):
    """The noise of one chunk.

    Attributes:
      latents: unit noise at full resolution, from which every stage of the first resolution starts.
      blocks: correlated unit noise for each stage after the first, coarsest first.
      steps: unit noise of every step of each stage, for solvers that add fresh noise between
        steps; empty for the others.
    """

    latents: Float[Array, "B T H W C"]
    blocks: tuple[Float[Array, "B T _ _ C"], ...]
    steps: tuple[Float[Array, "M B T _ _ C"], ...] = ()


def draw_chunk_noise(
    keys: Key[Array, "B"],
    chunk: Int[Array, ""] | int,
    shape: tuple[int, int, int, int],
    stages: int,
    gamma: float,
    steps: tuple[int, ...] = (),
) -> ChunkNoise:
    """Draw the noise of a chunk. A sample's noise depends on its own key, the chunk and the stage,
    not on the batch that the sample is in.

    Args:
      keys: [B] one key a sample.
      chunk: index of the chunk in the video.
      shape: (T, H, W, C) of the chunk's latents.
      stages: of the pyramid; 1 draws no block noise.
      gamma: correlation inside a block.
      steps: of every stage, for a solver that :func:`~helios_jax.diffusion.solvers.needs_noise`.
    """
    T, H, W, C = shape
    grids = stage_grids(H, W, stages)

    def draw(stage, size):
        def normal(key):
            return jax.random.normal(_stage_key(key, chunk, stage), size, jnp.float32)

        return jax.vmap(normal)(keys)

    def draw_steps(stage, count):
        def normal(key, step):
            # The draws of a stage have its key itself, those of its steps keys folded from it.
            key = jax.random.fold_in(_stage_key(key, chunk, stage), step)
            return jax.random.normal(key, (T, *grids[stage], C), jnp.float32)

        return jax.vmap(jax.vmap(normal, (0, None)), (None, 0))(keys, jnp.arange(count))

    blocks = []
    for stage, grid in enumerate(grids):
        if stage > 0:
            blocks.append(block_noise(draw(stage, (T, *grid, C)), gamma))
    fresh = tuple(draw_steps(stage, count) for stage, count in enumerate(steps))
    return ChunkNoise(draw(0, (T, H, W, C)), tuple(blocks), fresh)


def _stage_key(key: PRNGKeyArray, chunk: Int[Array, ""] | int, stage: int) -> PRNGKeyArray:
    """The key of one draw."""
    return jax.random.fold_in(jax.random.fold_in(key, chunk), stage)


def stage_start(
    before: Float[Array, "B T _ _ C"] | None,
    noise: ChunkNoise,
    scheduler: SchedulerConfig,
    stage: int,
) -> Float[Array, "B T _ _ C"]:
    """The sample that a stage starts from.

    The first stage starts from noise brought down to its resolution, a later one from the end of
    the stage before it (``before``), upsampled and given block noise.
    """
    if before is None:
        sample = noise.latents
        for _ in range(scheduler.stages - 1):
            sample = downsample_noise(sample)
        return sample
    return renoise(
        before,
        noise.blocks[stage - 1],
        stage_tables(scheduler)[stage].original_start_sigma,
        scheduler.gamma,
    )
