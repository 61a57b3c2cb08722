"""Flash attention for Hopper, in Mosaic GPU.

A program takes 128 queries of one head. Two consumer warpgroups attend with 64 of them each. A
producer warpgroup copies blocks of keys and values to shared memory ahead of them, into stages that
are filled again as soon as both consumers have released them. The running maximum, sum and output
of the softmax stay in registers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from .padding import MASK_VALUE

QUERIES = 64
"""Queries of a consumer: as many as a matrix instruction takes."""

CONSUMERS = 2
"""Consumer warpgroups."""

KEYS = 128
"""Keys of a block."""

STAGES = 2
"""Blocks of keys, and of values, in shared memory."""


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    interpret: Any = None,
) -> Float[Array, "B N K d"]:
    """As the plain version, for bfloat16 and float16 and 64 or 128 channels a head."""
    B, N, K, d = query.shape
    S = key.shape[1]
    blocks = pl.cdiv(S, KEYS)
    tail = S % KEYS
    # Copies count tokens in eights, the height of a tile in shared memory. What lies behind the
    # last token is masked, or cut off, in any case.
    query, key, value = (_padded_to_eights(x) for x in (query, key, value))
    log2_e = math.log2(math.e)  # the hardware has powers of 2
    unit = log2_e / math.sqrt(d)
    arrays = [query, key, value]
    if bias is not None:
        past_the_end = [(0, 0), (0, blocks * KEYS - S)]
        bias = jnp.maximum(bias, MASK_VALUE)
        arrays.append(jnp.pad(bias, past_the_end, constant_values=MASK_VALUE) * log2_e)

    def body(*refs, q, k, v, biases, q_ready, ready, free):
        q_hbm, k_hbm, v_hbm, *biases_hbm, out_hbm = refs
        k_ready, v_ready = ready
        k_free, v_free = free
        batch = lax.axis_index("batch")
        head = lax.axis_index("head")
        warpgroup = lax.axis_index("warpgroup")

        def produce():
            plgpu.set_max_registers(40, action="decrease")

            # Past the last block, to wait until every stage is released: no barrier may be left
            # with an arrival that nobody has waited for.
            @pl.loop(0, blocks + STAGES)
            def _(block):
                stage = lax.rem(block, STAGES)

                @pl.when(block >= STAGES)
                def _():
                    plgpu.barrier_wait(k_free.at[stage])
                    plgpu.barrier_wait(v_free.at[stage])

                @pl.when(block < blocks)
                def _():
                    keys = pl.ds(block * KEYS, KEYS)
                    plgpu.copy_gmem_to_smem(
                        k_hbm.at[batch, keys, head], k.at[stage], k_ready.at[stage]
                    )
                    for bias_hbm in biases_hbm:
                        plgpu.copy_gmem_to_smem(
                            bias_hbm.at[batch, keys], biases.at[stage], k_ready.at[stage]
                        )
                    plgpu.copy_gmem_to_smem(
                        v_hbm.at[batch, keys, head], v.at[stage], v_ready.at[stage]
                    )

        def consume():
            plgpu.set_max_registers(232, action="increase")
            queries = pl.ds((lax.axis_index("tile") * CONSUMERS + warpgroup) * QUERIES, QUERIES)
            plgpu.copy_gmem_to_smem(
                q_hbm.at[batch, queries, head], q.at[warpgroup], q_ready.at[warpgroup]
            )
            plgpu.barrier_wait(q_ready.at[warpgroup])

            def step(block, carry, keys=KEYS):
                highest, total, attended = carry
                stage = lax.rem(block, STAGES)
                plgpu.barrier_wait(k_ready.at[stage])
                logits = _product(q.at[warpgroup], k.at[stage], transpose=True)
                scale = unit
                if biases_hbm:
                    logits = logits * unit + lax.broadcast_in_dim(biases[stage], logits.shape, [1])
                    scale = 1.0
                    # Threads read biases, unlike keys and values: a fence keeps the next copy
                    # behind them.
                    plgpu.commit_smem()
                plgpu.barrier_arrive(k_free.at[stage])
                if keys < KEYS:
                    column = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
                    logits = jnp.where(column < keys, logits, -jnp.inf)

                previous = highest
                highest = jnp.maximum(previous, logits.max(axis=1) * scale)
                correction = jnp.exp2(previous - highest)
                weights = jnp.exp2(logits * scale - _columns(highest, KEYS))
                total = total * correction + weights.sum(axis=1)
                weights = weights.astype(v.dtype)
                plgpu.barrier_wait(v_ready.at[stage])
                attended = attended * _columns(correction, d)
                attended += _product(weights, v.at[stage])
                plgpu.barrier_arrive(v_free.at[stage])
                return highest, total, attended

            carry = (
                jnp.full((QUERIES,), -jnp.inf, jnp.float32),
                jnp.zeros((QUERIES,), jnp.float32),
                jnp.zeros((QUERIES, d), jnp.float32),
            )
            if tail and not biases_hbm:  # biases mask what is past the last key by themselves
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

        pl.when(warpgroup < CONSUMERS)(consume)
        pl.when(warpgroup == CONSUMERS)(produce)

    free = plgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=STAGES)
    attended = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(query.shape, query.dtype),
        # The last axis runs fastest: programs that are at work together read the keys of one head,
        # through the L2 cache.
        grid=(B, K, pl.cdiv(N, CONSUMERS * QUERIES)),
        grid_names=("batch", "head", "tile"),
        num_threads=CONSUMERS + 1,
        thread_name="warpgroup",
        scratch_types=dict(
            q=plgpu.SMEM((CONSUMERS, QUERIES, d), query.dtype),
            k=plgpu.SMEM((STAGES, KEYS, d), key.dtype),
            v=plgpu.SMEM((STAGES, KEYS, d), value.dtype),
            biases=plgpu.SMEM((STAGES, KEYS), jnp.float32),
            q_ready=plgpu.Barrier(num_barriers=CONSUMERS),
            # Keys arrive, and biases where there are any.
            ready=(
                plgpu.Barrier(num_arrivals=len(arrays) - 2, num_barriers=STAGES),
                plgpu.Barrier(num_barriers=STAGES),
            ),
            free=(free, free),
        ),
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup, approx_math=True
        ),
        kernel_name="helios_attention",
        interpret=interpret,
    )(*arrays)
    return attended[:, :N]


def _product(a, b, *, transpose: bool = False):
    """``a @ b``, or ``a @ b.T``, in float32; ``b`` lies in shared memory, ``a`` there or in
    registers.
    """
    b = b.T if transpose else b

    def run(accumulator):
        plgpu.wgmma(accumulator, a, b)
        return accumulator[...]

    return pl.run_scoped(run, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def _padded_to_eights(x: jax.Array) -> jax.Array:
    """Zeros after the last token, up to a multiple of eight tokens."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0)])


def _columns(rows, columns: int):
    """One number for each row, repeated in all its columns."""
    return lax.broadcast_in_dim(rows, (*rows.shape, columns), [0])
