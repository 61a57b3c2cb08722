"""Flash attention for Hopper, in Mosaic GPU.

A program takes 128 queries of one head. Two warpgroups compute 64 of them each; a third copies blocks of keys and values to shared memory
ahead of them, into as many slots as there are stages, and is told when a slot is free again. The running maximum and sum of the softmax, and
the attended values, stay in registers.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..dispatch import Target
from ..gradient import with_reference_gradient
from . import cudnn, reference
from .padding import HIDDEN

ROWS = 64  # queries of a warpgroup, as many as one matrix instruction takes
WORKERS = 2  # warpgroups that compute
BLOCK = 128  # keys a step
STAGES = 2  # blocks of keys and values in shared memory
HEAD_DIMS = (64, 128)


def _product(a, b, *, transpose: bool = False):
    """``a @ b``, or ``a @ b.T``, in fresh float32 accumulators of this warpgroup; ``b`` lies in shared memory, ``a`` there or in registers."""
    import jax.experimental.pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    b = b.T if transpose else b

    def run(accumulator):
        plgpu.wgmma(accumulator, a, b)
        return accumulator[...]

    return pl.run_scoped(run, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def _forward(query, key, value, bias, *, interpret=False):
    import jax.experimental.pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    (B, N, K, d), S = query.shape, key.shape[1]
    blocks, tail = pl.cdiv(S, BLOCK), S % BLOCK
    # Copies count tokens in eights, the height of a tile in shared memory; zeros behind the last token are masked like any past the end.
    query, key, value = (jnp.pad(x, [(0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0)]) for x in (query, key, value))
    # The softmax is one of base 2, which the hardware has.
    unit = math.log2(math.e) / math.sqrt(d)
    if bias is not None:  # hides the tail of the last block, too
        bias = jnp.pad(jnp.maximum(bias, HIDDEN), [(0, 0), (0, blocks * BLOCK - S)], constant_values=HIDDEN) * math.log2(math.e)

    def kernel(*refs, q, k, v, offsets, q_ready, k_ready, v_ready, k_free, v_free):
        *inputs, out_hbm = refs
        q_hbm, k_hbm, v_hbm, *bias_hbm = inputs
        batch, head, worker = lax.axis_index("batch"), lax.axis_index("head"), lax.axis_index("warpgroup")

        def copy():
            """Fill slots with blocks, each as soon as both workers are done with what it held."""
            plgpu.set_max_registers(40, action="decrease")

            def fill(block, slot):
                keys = pl.ds(block * BLOCK, BLOCK)
                plgpu.copy_gmem_to_smem(k_hbm.at[batch, keys, head], k.at[slot], k_ready.at[slot])
                for offsets_hbm in bias_hbm:
                    plgpu.copy_gmem_to_smem(offsets_hbm.at[batch, keys], offsets.at[slot], k_ready.at[slot])
                plgpu.copy_gmem_to_smem(v_hbm.at[batch, keys, head], v.at[slot], v_ready.at[slot])

            @pl.loop(0, blocks + STAGES)  # to the end: every block's slot is seen to become free, though nothing follows the last
            def _(block):
                slot = lax.rem(block, STAGES)

                @pl.when(block >= STAGES)
                def _():
                    plgpu.barrier_wait(k_free.at[slot])
                    plgpu.barrier_wait(v_free.at[slot])

                @pl.when(block < blocks)
                def _():
                    fill(block, slot)

        def compute():
            """Attend with this worker's queries."""
            plgpu.set_max_registers(232, action="increase")
            rows = pl.ds((lax.axis_index("tile") * WORKERS + worker) * ROWS, ROWS)
            plgpu.copy_gmem_to_smem(q_hbm.at[batch, rows, head], q.at[worker], q_ready.at[worker])
            plgpu.barrier_wait(q_ready.at[worker])
            spread = lambda row, channels: lax.broadcast_in_dim(row, (ROWS, channels), [0])

            def step(block, carry, *, last=False):
                highest, total, attended = carry
                slot = lax.rem(block, STAGES)
                plgpu.barrier_wait(k_ready.at[slot])
                logits = _product(q.at[worker], k.at[slot], transpose=True)
                scale = unit
                if bias_hbm:
                    logits, scale = logits * unit + lax.broadcast_in_dim(offsets[slot], (ROWS, BLOCK), [1]), 1.0
                plgpu.barrier_arrive(k_free.at[slot])
                if last:
                    logits = jnp.where(lax.broadcasted_iota(jnp.int32, (ROWS, BLOCK), 1) < tail, logits, -jnp.inf)

                before, highest = highest, jnp.maximum(highest, logits.max(axis=1) * scale)
                fade = jnp.exp2(before - highest)
                weights = jnp.exp2(logits * scale - spread(highest, BLOCK))
                total = total * fade + weights.sum(axis=1)
                weights = weights.astype(v.dtype)
                plgpu.barrier_wait(v_ready.at[slot])
                attended = attended * spread(fade, d) + _product(weights, v.at[slot])
                plgpu.barrier_arrive(v_free.at[slot])
                return highest, total, attended

            carry = jnp.full((ROWS,), -jnp.inf, jnp.float32), jnp.zeros((ROWS,), jnp.float32), jnp.zeros((ROWS, d), jnp.float32)
            masked = bool(tail) and not bias_hbm
            carry = lax.fori_loop(0, blocks - masked, step, carry)
            _, total, attended = step(blocks - 1, carry, last=True) if masked else carry

            # Queries past N were read as zeros, and are clipped here: the copies know the bounds of the whole array.
            q[worker] = (attended * spread(1 / total, d)).astype(q.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q.at[worker], out_hbm.at[batch, rows, head])
            plgpu.wait_smem_to_gmem(0)

        pl.when(worker < WORKERS)(compute)
        pl.when(worker == WORKERS)(copy)

    free = plgpu.Barrier(num_arrivals=WORKERS, num_barriers=STAGES)
    attended = plgpu.kernel(
        kernel,
        out_type=jax.ShapeDtypeStruct(query.shape, value.dtype),
        grid=(B, K, pl.cdiv(N, WORKERS * ROWS)),  # the last axis runs fastest: programs that run together share a head's keys in the L2 cache
        grid_names=("batch", "head", "tile"),
        num_threads=WORKERS + 1,
        thread_name="warpgroup",
        scratch_types=dict(
            q=plgpu.SMEM((WORKERS, ROWS, d), query.dtype),
            k=plgpu.SMEM((STAGES, BLOCK, d), key.dtype),
            v=plgpu.SMEM((STAGES, BLOCK, d), value.dtype),
            offsets=plgpu.SMEM((STAGES, BLOCK), jnp.float32),
            q_ready=plgpu.Barrier(num_barriers=WORKERS),
            k_ready=plgpu.Barrier(num_arrivals=1 if bias is None else 2, num_barriers=STAGES),
            v_ready=plgpu.Barrier(num_barriers=STAGES),
            k_free=free,
            v_free=free,
        ),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup, approx_math=True),
        kernel_name="helios_attention",
        interpret=interpret,
    )(*(array for array in (query, key, value, bias) if array is not None))
    return attended[:, :N]


def _gradient_of(query, key, value, bias, *, interpret=False):
    """What the backward pass differentiates: cuDNN's attention, which never holds all logits, or the reference where that is offered no GPU."""
    from ..dispatch import target

    plain = bias is not None or cudnn.refuses(target(), query, key, value) is not None
    return (reference if plain else cudnn).attention(query, key, value, bias)


_differentiable = with_reference_gradient(_forward, _gradient_of)


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    interpret=False,
) -> Float[Array, "B N K d"]:
    """As the reference. The gradient is cuDNN's, or the reference's where there is a ``bias``."""
    return _differentiable(query, key, value, bias, interpret=interpret)


def refuses(target: Target, query: Array, key: Array, value: Array, bias: Array | None = None) -> str | None:
    """Why this kernel cannot serve, or None."""
    if not target.is_hopper:
        return f"it needs a Hopper GPU, not {target.kind} ({target.platform})"
    if query.dtype not in (jnp.bfloat16, jnp.float16) or not query.dtype == key.dtype == value.dtype:
        return f"it takes bfloat16 or float16, one for all, not {query.dtype}, {key.dtype}, {value.dtype}"
    if query.shape[-1] not in HEAD_DIMS:
        return f"it takes heads of {' or '.join(map(str, HEAD_DIMS))} channels, not {query.shape[-1]}"
    return None
