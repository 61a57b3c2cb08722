"""The fused norm and rotation as a Mosaic GPU kernel: a warpgroup takes a few tokens of queries, of
keys or of values.

Mosaic has no way to exchange neighbouring elements of a register array. So the kernel reads the two
16-bit channels of a pair as one 32-bit word, with the even channel in its low half, which to XLA is
a bitcast of the same bytes. A word is one element of a register array, so a pair is rotated inside
one thread, and memory is read and written 8 bytes a thread, 256 a warp.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from ..quantize.pallas import scale_product
from ..quantize.types import UnscaledProduct

WORDS = 256
"""Words of a group of heads, two for each thread of a warpgroup: the fewest that spread over all
its threads in the layout of larger arrays.
"""

MAX_TOKENS = 8
"""Most tokens that a warpgroup takes one after another, with the weights of the norm in registers
all the while.
"""


def norm_rope(
    qkv: Float[Array, "B N 3 K d"] | UnscaledProduct,
    scales: tuple[Float[Array, "width"], Float[Array, "width"]],
    rope: tuple[Float[Array, "N pairs"], Float[Array, "N pairs"]],
    key_gain: Float[Array, "K"] | None = None,
    *,
    history: int,
    eps: float,
    keys: int | None = None,
    interpret: Any = None,
) -> tuple[Float[Array, "B N K d"], Float[Array, "B S K d"], Float[Array, "B S K d"]]:
    """As the plain version, for bfloat16 and float16, 64, 128 or 256 channels a head, and K·d a
    multiple of 512.
    """
    B, N, _, K, d = qkv.shape
    dtype = qkv.dtype
    pairs = d // 2
    heads = WORDS // pairs
    shape = (K // heads, heads, pairs)
    S = N if keys is None else keys
    run = max(tokens for tokens in range(1, MAX_TOKENS + 1) if N % tokens == S % tokens == 0)
    blocks = N // run
    key_blocks = S // run
    amplified = key_gain is not None and history > 0
    unscaled = isinstance(qkv, UnscaledProduct)

    def body(qkv, scales, gain, cos, sin, *refs):
        *product, query, key, value, cos_of_heads, sin_of_heads, arrived = refs
        block = lax.axis_index("block")
        part = lax.axis_index("part")
        place = lax.rem(block, blocks)
        # Of keys and values, which those blocks of a sequence have that come first.
        key_block = lax.div(block, blocks) * key_blocks + place
        has_keys = place < key_blocks

        def read(i, part):
            """Even and odd channels of a token's queries, keys or values, in float32."""
            even, odd = _unpack(qkv[block, i, part], dtype)
            if unscaled:
                token_scale, channel_scale, bias = product
                factor = token_scale[block, i]
                even = scale_product(even, factor, channel_scale[part, 0], bias[part, 0])
                odd = scale_product(odd, factor, channel_scale[part, 1], bias[part, 1])
            return even, odd

        def rotate(part, result, block_of_result):
            # A table serves all heads. Registers can only repeat an array that fills them once: the
            # rows are copied for as many heads as that takes.
            for table, of_heads in ((cos, cos_of_heads), (sin, sin_of_heads)):
                for head in range(heads):
                    plgpu.copy_gmem_to_smem(table.at[place], of_heads.at[head], arrived)
            scale_of_even = scales[part, 0]
            scale_of_odd = scales[part, 1]
            plgpu.barrier_wait(arrived)

            @pl.loop(0, run)
            def _(i):
                even, odd = read(i, part)
                inverse = lax.rsqrt(jnp.sum(even * even + odd * odd) / (K * d) + eps)
                even = even * inverse * scale_of_even
                odd = odd * inverse * scale_of_odd
                even, odd = _unpack(_pack(even, odd, dtype), dtype)  # rounded
                c = lax.broadcast_in_dim(cos_of_heads[:, i], shape, (1, 2))
                s = lax.broadcast_in_dim(sin_of_heads[:, i], shape, (1, 2))
                even, odd = even * c - odd * s, even * s + odd * c
                if amplified and part == 1:
                    token = place * run + i
                    factor = gain[(token >= history).astype(jnp.int32)]
                    even, odd = _unpack(_pack(even, odd, dtype), dtype)
                    even = even * factor
                    odd = odd * factor
                result[block_of_result, i] = _pack(even, odd, dtype)

        @pl.when(part == 0)
        def _():
            rotate(0, query, block)

        @pl.when((part == 1) & has_keys)
        def _():
            rotate(1, key, key_block)

        # 2 x 113 MB at 11040 tokens, the same that XLA would move to make the values contiguous for
        # attention, in a launch of its own.
        @pl.when((part == 2) & has_keys)
        def _():
            @pl.loop(0, run)
            def _(i):
                if unscaled:
                    value[key_block, i] = _pack(*read(i, 2), dtype)
                else:
                    value[key_block, i] = qkv[block, i, 2]

    weights = jnp.stack(scales).astype(jnp.float32)
    weights = weights.reshape(2, K * pairs, 2).swapaxes(1, 2).reshape(2, 2, *shape)
    # A row for history keys and one of ones for the others, with a factor for each pair: registers
    # cannot spread a head's factor over its pairs.
    gain = jnp.ones((2, *shape), jnp.float32)
    if amplified:
        gain = gain.at[0].multiply(key_gain.reshape(*shape[:2], 1))
    queries = jax.ShapeDtypeStruct((B * blocks, run, *shape), jnp.uint32)
    part = jax.ShapeDtypeStruct((B * key_blocks, run, *shape), jnp.uint32)
    table = plgpu.SMEM((heads, run, pairs), jnp.float32)
    kernel = plgpu.kernel(
        body,
        out_type=(queries, part, part),
        grid=(B * blocks, 3),
        grid_names=("block", "part"),
        scratch_types=(table, table, plgpu.Barrier(num_arrivals=2 * heads)),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        **({} if interpret is None else {"interpret": interpret}),
    )
    product = ()
    if isinstance(qkv, UnscaledProduct):
        weights_of_product = (
            weight.reshape(3, *shape, 2).transpose(0, 4, 1, 2, 3)
            for weight in (qkv.channel_scale, qkv.bias)
        )
        product = (qkv.token_scale.reshape(B * blocks, run), *weights_of_product)
        qkv = qkv.sums
    words = lax.bitcast_convert_type(qkv.reshape(B * blocks, run, 3, *shape, 2), jnp.uint32)
    cos, sin = (table.reshape(blocks, run, pairs) for table in rope)
    results = kernel(words, weights, gain, cos, sin, *product)
    query, key, value = (
        lax.bitcast_convert_type(result, dtype).reshape(B, -1, K, d) for result in results
    )
    return query, key, value


def _unpack(words, dtype):
    """The low and the high halves of words, in float32."""
    low = lax.bitcast_convert_type(words.astype(jnp.uint16), dtype)
    high = lax.bitcast_convert_type((words >> 16).astype(jnp.uint16), dtype)
    return low.astype(jnp.float32), high.astype(jnp.float32)


def _pack(low, high, dtype):
    """Words of two halves, rounded to ``dtype``."""
    low = lax.bitcast_convert_type(low.astype(dtype), jnp.uint16).astype(jnp.uint32)
    high = lax.bitcast_convert_type(high.astype(dtype), jnp.uint16).astype(jnp.uint32)
    return low | high << 16
