"""The fused norm and rotation as a Mosaic GPU kernel: a warpgroup takes a few tokens of queries, of
keys or of values.

Mosaic has no way to exchange neighbouring elements of a register array, so the kernel reads the two
16-bit channels of a pair as one 32-bit word, which holds the even channel in its low half. To XLA
that is another name for the same bytes. A word is what one element of a register array is, so a
pair is rotated inside one thread, and memory is read and written 8 bytes a thread, 256 a warp.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

WORDS = 256
"""Two a thread of a warpgroup: the least that spreads over all its threads in the layout of larger
arrays.
"""

MOST_TOKENS = 8
"""Tokens that a warpgroup takes one after another, with the weights of the norm in registers all
the while.
"""


def norm_rope(
    qkv: Float[Array, "B N 3 K d"],
    scale_q: Float[Array, "K*d"],
    scale_k: Float[Array, "K*d"],
    cos: Float[Array, "N d//2"],
    sin: Float[Array, "N d//2"],
    key_gain: Float[Array, "K"] | None = None,
    *,
    history: int,
    eps: float,
    interpret: Any = None,
) -> tuple[Float[Array, "B N K d"], Float[Array, "B N K d"], Float[Array, "B N K d"]]:
    """As the reference, for bfloat16 and float16, 64, 128 or 256 channels a head and K·d a multiple
    of 512.
    """
    B, N, _, K, d = qkv.shape
    pairs = d // 2
    heads = WORDS // pairs
    shape = (K // heads, heads, pairs)
    run = max(tokens for tokens in range(1, MOST_TOKENS + 1) if N % tokens == 0)
    blocks = N // run
    amplified = key_gain is not None and history > 0

    def body(qkv, scales, gain, cos, sin, query, key, value, cos_of_heads, sin_of_heads, arrived):
        block, part = lax.axis_index("block"), lax.axis_index("part")

        def rotate(part, result):
            # A table serves all heads. Registers can repeat what fills them once: the rows are
            # copied for as many heads as that takes.
            for table, of_heads in ((cos, cos_of_heads), (sin, sin_of_heads)):
                for head in range(heads):
                    plgpu.copy_gmem_to_smem(
                        table.at[lax.rem(block, blocks)], of_heads.at[head], arrived
                    )
            scale_of_even, scale_of_odd = scales[part, 0], scales[part, 1]
            plgpu.barrier_wait(arrived)

            @pl.loop(0, run)
            def _(i):
                words = qkv[block, i, part]
                even, odd = _unpack(words, dtype)
                inverse = lax.rsqrt(jnp.sum(even * even + odd * odd) / (K * d) + eps)
                even, odd = _unpack(
                    _pack(even * inverse * scale_of_even, odd * inverse * scale_of_odd, dtype),
                    dtype,
                )
                c, s = (
                    lax.broadcast_in_dim(table[:, i], shape, (1, 2))
                    for table in (cos_of_heads, sin_of_heads)
                )
                even, odd = even * c - odd * s, even * s + odd * c
                if amplified and part == 1:
                    factor = gain[(lax.rem(block, blocks) * run + i >= history).astype(jnp.int32)]
                    even, odd = (
                        rounded * factor for rounded in _unpack(_pack(even, odd, dtype), dtype)
                    )
                result[block, i] = _pack(even, odd, dtype)

        @pl.when(part == 0)
        def _():
            rotate(0, query)

        @pl.when(part == 1)
        def _():
            rotate(1, key)

        # 2 x 113 MB at 11040 tokens, the same that XLA would move to make the values contiguous for
        # attention, in a launch of its own.
        @pl.when(part == 2)
        def _():
            @pl.loop(0, run)
            def _(i):
                value[block, i] = qkv[block, i, 2]

    dtype = qkv.dtype
    scales = (
        jnp.stack([scale_q, scale_k])
        .astype(jnp.float32)
        .reshape(2, K * pairs, 2)
        .swapaxes(1, 2)
        .reshape(2, 2, *shape)
    )
    # A row for history keys and one of ones for the others, a factor each pair: registers cannot
    # spread a head's factor over its pairs.
    gain = jnp.ones((2, *shape), jnp.float32)
    if amplified:
        gain = gain.at[0].multiply(key_gain.reshape(*shape[:2], 1))
    part = jax.ShapeDtypeStruct((B * blocks, run, *shape), jnp.uint32)
    table = plgpu.SMEM((heads, run, pairs), jnp.float32)
    kernel = plgpu.kernel(
        body,
        out_type=(part, part, part),
        grid=(B * blocks, 3),
        grid_names=("block", "part"),
        scratch_types=(table, table, plgpu.Barrier(num_arrivals=2 * heads)),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        **({} if interpret is None else {"interpret": interpret}),
    )
    words = lax.bitcast_convert_type(qkv.reshape(B * blocks, run, 3, *shape, 2), jnp.uint32)
    results = kernel(
        words, scales, gain, *(table.reshape(blocks, run, pairs) for table in (cos, sin))
    )
    return tuple(lax.bitcast_convert_type(result, dtype).reshape(B, N, K, d) for result in results)


def _unpack(words, dtype):
    """The low and the high halves of words, in float32."""
    halves = (words.astype(jnp.uint16), (words >> 16).astype(jnp.uint16))
    return tuple(lax.bitcast_convert_type(half, dtype).astype(jnp.float32) for half in halves)


def _pack(low, high, dtype):
    """Words of two halves, rounded to ``dtype``."""
    low, high = (
        lax.bitcast_convert_type(half.astype(dtype), jnp.uint16).astype(jnp.uint32)
        for half in (low, high)
    )
    return low | high << 16
