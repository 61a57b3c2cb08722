"""The norm over channels in Mosaic GPU: a warpgroup takes 64 pixels, frame after frame.

Frames come through the asynchronous copy engine, the next one while this one is computed, and leave
the same way, from the place of what they were computed from. What is copied as it is never leaves
shared memory. Several such warpgroups, each a program, share a multiprocessor.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

PIXELS = 64
"""Pixels of a program: the rows of a tile that spreads over a warpgroup, four threads a row."""

STAGES = 2
"""Frames in shared memory, one computed and one on its way."""

LANES = 128
"""Most channels in registers at a time."""

MOST_CHANNELS = 512
"""Of a pixel: two stages in float32 fit in shared memory."""


def lanes(channels: int) -> int:
    """Channels in registers at a time: the most that divide a pixel's, in eights; 0 if none do."""
    return max((n for n in range(8, LANES + 1, 8) if channels % n == 0), default=0)


def channel_norm(
    x: Float[Array, "B T Y X C"],
    gamma: Float[Array, "C"],
    past: Float[Array, "B r Y X C"] | None = None,
    *,
    silu: bool = False,
    reach: int = 0,
    keep: bool = False,
    interpret=False,
) -> tuple[Float[Array, "B _ Y X C"], Float[Array, "B r Y X C"] | None]:
    """As the plain version, for channels in eights."""
    B, T, Y, X, C = x.shape
    width = lanes(C)
    parts = C // width
    pixel = (Y * X, parts, width)
    arrays = {"x": x} if past is None else {"x": x, "past": past}
    arrays = {name: array.reshape(*array.shape[:2], *pixel) for name, array in arrays.items()}
    gain = (C**0.5 * gamma.astype(jnp.float32)).reshape(parts, width)
    results = {"frames": jax.ShapeDtypeStruct((B, reach + T, *pixel), x.dtype)}
    if keep:
        results["last"] = jax.ShapeDtypeStruct((B, reach, *pixel), x.dtype)

    def body(*refs, tile, weight, ready, weight_ready):
        gmem = dict(zip((*arrays, "gain", *results), refs))
        batch = lax.axis_index("batch")
        pixels = pl.ds(lax.axis_index("block") * PIXELS, PIXELS)

        def fetch(name, frame, stage):
            for part in range(parts):
                source = gmem[name].at[batch, frame, pixels, part]
                plgpu.copy_gmem_to_smem(source, tile.at[stage, part], ready.at[stage])

        def store(name, frame, stage):
            for part in range(parts):
                target = gmem[name].at[batch, frame, pixels, part]
                plgpu.copy_smem_to_gmem(tile.at[stage, part], target)

        def spread(array):
            """An array in the layout that can sum along a row.

            The interpreter of jax 0.10 knows no layouts, and has no need of them.
            """
            return array if interpret else plgpu.layout_cast(array, plgpu.Layout.WGMMA)

        def read(stage, part):
            """Some channels of all pixels, in float32."""
            return spread(tile[stage, part]).astype(jnp.float32)

        plgpu.copy_gmem_to_smem(gmem["gain"], weight, weight_ready)
        for frame in range(reach):
            if past is not None:
                fetch("past", frame, 0)
                plgpu.barrier_wait(ready.at[0])
            elif frame == 0:
                for part in range(parts):
                    tile[0, part] = spread(jnp.zeros((PIXELS, width), x.dtype))
                plgpu.commit_smem()
            store("frames", frame, 0)
            if keep and frame >= T:
                store("last", frame - T, 0)
            if past is not None or frame == reach - 1:
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        fetch("x", 0, 0)
        plgpu.barrier_wait(weight_ready)

        @pl.loop(0, T)
        def _(frame):
            stage = lax.rem(frame, STAGES)

            @pl.when(frame + 1 < T)
            def _():
                # The results in the other stage are on their way.
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                fetch("x", frame + 1, 1 - stage)

            plgpu.barrier_wait(ready.at[stage])
            squares = 0.0
            for part in range(parts):
                value = read(stage, part)
                squares += jnp.sum(value * value, axis=1)
            inverse = lax.rsqrt(jnp.maximum(squares, 1e-24))
            inverse = lax.broadcast_in_dim(inverse, (PIXELS, width), [0])
            for part in range(parts):
                value = read(stage, part) * inverse
                value *= lax.broadcast_in_dim(weight[part], (PIXELS, width), [1])
                if silu:
                    value /= 1 + jnp.exp(-value)
                tile[stage, part] = value.astype(x.dtype)
            plgpu.commit_smem()
            store("frames", reach + frame, stage)
            if keep:

                @pl.when(frame >= T - reach)
                def _():
                    store("last", frame + reach - T, stage)

        plgpu.wait_smem_to_gmem(0)

    outputs = plgpu.kernel(
        body,
        out_type=list(results.values()),
        grid=(B, pl.cdiv(Y * X, PIXELS)),
        grid_names=("batch", "block"),
        scratch_types=dict(
            tile=plgpu.SMEM((STAGES, parts, PIXELS, width), x.dtype),
            weight=plgpu.SMEM((parts, width), jnp.float32),
            ready=plgpu.Barrier(num_arrivals=parts, num_barriers=STAGES),
            weight_ready=plgpu.Barrier(),
        ),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        kernel_name="helios_channel_norm",
        interpret=interpret,
    )(*arrays.values(), gain)
    frames, *last = (found.reshape(*found.shape[:2], Y, X, C) for found in outputs)
    return frames, last[0] if keep else None
