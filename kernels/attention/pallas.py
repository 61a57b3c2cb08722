"""Flash attention for Hopper, in Mosaic GPU.

A program takes 128 queries of one head. Two warpgroups attend with 64 of them each; a third copies
blocks of keys and values to shared memory ahead of them, into slots that are filled again as soon
as both are done with what they held. Maximum and sum of the softmax so far, and the values attended
so far, stay in registers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from .padding import HIDDEN

ROWS = 64
"""Queries of a warpgroup: as many as a matrix instruction takes."""

WORKERS = 2
"""Warpgroups that attend."""

BLOCK = 128
"""Keys of a step."""

SLOTS = 2
"""Blocks of keys, and of values, in shared memory."""


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    interpret: Any = None,
) -> Float[Array, "B N K d"]:
    """As the reference, for bfloat16 and float16 and 64 or 128 channels a head."""
    (B, N, K, d), S = query.shape, key.shape[1]
    blocks, tail = pl.cdiv(S, BLOCK), S % BLOCK
    # Copies count tokens in eights, the height of a tile in shared memory. What lies behind the
    # last token is hidden, or cut off, in any case.
    query, key, value = (
        jnp.pad(x, [(0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0)]) for x in (query, key, value)
    )
    unit = math.log2(math.e) / math.sqrt(d)  # powers of 2 are what the hardware has
    arrays = [query, key, value]
    if bias is not None:
        hidden = [(0, 0), (0, blocks * BLOCK - S)]
        arrays.append(
            jnp.pad(jnp.maximum(bias, HIDDEN), hidden, constant_values=HIDDEN) * math.log2(math.e)
        )

    def body(*refs, q, k, v, offsets, q_ready, k_ready, v_ready, k_free, v_free):
        *inputs, out_hbm = refs
        q_hbm, k_hbm, v_hbm, *offsets_hbm = inputs
        batch, head, warpgroup = (
            lax.axis_index("batch"),
            lax.axis_index("head"),
            lax.axis_index("warpgroup"),
        )

        def copy():
            plgpu.set_max_registers(40, action="decrease")

            @pl.loop(
                0, blocks + SLOTS
            )  # to the end: every slot is seen to become free, though nothing follows the last blocks
            def _(block):
                slot = lax.rem(block, SLOTS)

                @pl.when(block >= SLOTS)
                def _():
                    plgpu.barrier_wait(k_free.at[slot])
                    plgpu.barrier_wait(v_free.at[slot])

                @pl.when(block < blocks)
                def _():
                    keys = pl.ds(block * BLOCK, BLOCK)
                    plgpu.copy_gmem_to_smem(
                        k_hbm.at[batch, keys, head], k.at[slot], k_ready.at[slot]
                    )
                    for row_hbm in offsets_hbm:
                        plgpu.copy_gmem_to_smem(
                            row_hbm.at[batch, keys], offsets.at[slot], k_ready.at[slot]
                        )
                    plgpu.copy_gmem_to_smem(
                        v_hbm.at[batch, keys, head], v.at[slot], v_ready.at[slot]
                    )

        def attend():
            plgpu.set_max_registers(232, action="increase")
            queries = pl.ds((lax.axis_index("tile") * WORKERS + warpgroup) * ROWS, ROWS)
            plgpu.copy_gmem_to_smem(
                q_hbm.at[batch, queries, head], q.at[warpgroup], q_ready.at[warpgroup]
            )
            plgpu.barrier_wait(q_ready.at[warpgroup])

            def step(block, carry, keys=BLOCK):
                highest, total, attended = carry
                slot = lax.rem(block, SLOTS)
                plgpu.barrier_wait(k_ready.at[slot])
                logits, scale = _product(q.at[warpgroup], k.at[slot], transpose=True), unit
                if offsets_hbm:
                    logits, scale = (
                        logits * unit + lax.broadcast_in_dim(offsets[slot], logits.shape, [1]),
                        1.0,
                    )
                    plgpu.commit_smem()  # read by threads, unlike keys and values: a fence keeps the next copy behind
                plgpu.barrier_arrive(k_free.at[slot])
                if keys < BLOCK:
                    logits = jnp.where(
                        lax.broadcasted_iota(jnp.int32, logits.shape, 1) < keys, logits, -jnp.inf
                    )

                before, highest = highest, jnp.maximum(highest, logits.max(axis=1) * scale)
                fade = jnp.exp2(before - highest)
                weights = jnp.exp2(logits * scale - _columns(highest, BLOCK))
                total = total * fade + weights.sum(axis=1)
                weights = weights.astype(v.dtype)
                plgpu.barrier_wait(v_ready.at[slot])
                attended = attended * _columns(fade, d) + _product(weights, v.at[slot])
                plgpu.barrier_arrive(v_free.at[slot])
                return highest, total, attended

            carry = (
                jnp.full((ROWS,), -jnp.inf, jnp.float32),
                jnp.zeros((ROWS,), jnp.float32),
                jnp.zeros((ROWS, d), jnp.float32),
            )
            if tail and not offsets_hbm:  # offsets hide what is past the last key by themselves
                carry = lax.fori_loop(0, blocks - 1, step, carry)
                _, total, attended = step(blocks - 1, carry, keys=tail)
            else:
                _, total, attended = lax.fori_loop(0, blocks, step, carry)

            # Copies know where the arrays end: queries past it were read as zeros, and are not
            # written.
            q[warpgroup] = (attended * _columns(1 / total, d)).astype(q.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q.at[warpgroup], out_hbm.at[batch, queries, head])
            plgpu.wait_smem_to_gmem(0)

        pl.when(warpgroup < WORKERS)(attend)
        pl.when(warpgroup == WORKERS)(copy)

    free = plgpu.Barrier(num_arrivals=WORKERS, num_barriers=SLOTS)
    attended = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(query.shape, query.dtype),
        # The last axis runs fastest: programs that are at work together read the keys of one head,
        # through the L2 cache.
        grid=(B, K, pl.cdiv(N, WORKERS * ROWS)),
        grid_names=("batch", "head", "tile"),
        num_threads=WORKERS + 1,
        thread_name="warpgroup",
        scratch_types=dict(
            q=plgpu.SMEM((WORKERS, ROWS, d), query.dtype),
            k=plgpu.SMEM((SLOTS, BLOCK, d), key.dtype),
            v=plgpu.SMEM((SLOTS, BLOCK, d), value.dtype),
            offsets=plgpu.SMEM((SLOTS, BLOCK), jnp.float32),
            q_ready=plgpu.Barrier(num_barriers=WORKERS),
            k_ready=plgpu.Barrier(
                num_arrivals=len(arrays) - 2, num_barriers=SLOTS
            ),  # keys, and offsets where there are any
            v_ready=plgpu.Barrier(num_barriers=SLOTS),
            k_free=free,
            v_free=free,
        ),
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup, approx_math=True
        ),
        kernel_name="helios_attention",
        interpret=interpret,
    )(*arrays)
    return attended[:, :N]


def _product(a, b, *, transpose: bool = False):
    """``a @ b``, or ``a @ b.T``, in accumulators of its own, float32; ``b`` lies in shared memory,
    ``a`` there or in registers.
    """
    b = b.T if transpose else b

    def run(accumulator):
        plgpu.wgmma(accumulator, a, b)
        return accumulator[...]

    return pl.run_scoped(run, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def _columns(rows, columns: int):
    """A number a row, repeated in each of its columns."""
    return lax.broadcast_in_dim(rows, (*rows.shape, columns), [0])
