"""The fused norm and rotation in Triton: one program a token, which holds its queries, then its
keys, in registers from their read to their write.

A token is cut into groups of heads. Of a group each thread has 16 bytes, eight bfloat16 channels:
four whole pairs, so that no pair is rotated across threads. Weights and angles, which tokens share,
come from the caches near the cores; the tokens themselves are streamed past these.
"""

import math
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import triton
import triton.language as tl
from jaxtyping import Array, Float

from ..quantize.triton import scale_product
from ..quantize.types import UnscaledProduct
from ..triton_calls import triton_call

GROUP = 1024
"""Most channels of a group."""


@triton.jit
@no_type_check
def _rotate(
    x,
    result,
    scale,
    gain,
    cos,
    sin,
    factor,
    channel_scale,
    bias,
    token,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,  # heads of a group
    CHANNELS: tl.constexpr,  # channels of a head
    HISTORY: tl.constexpr,  # heads of the tokens before this one are multiplied by `gain`
    EPS: tl.constexpr,
    UNSCALED: tl.constexpr,
):
    """Norm and rotate one token's queries or keys."""
    dtype = result.dtype.element_ty
    STEP: tl.constexpr = HEADS * CHANNELS
    group = tl.arange(0, HEADS)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    groups = ()
    squares = tl.zeros([HEADS, CHANNELS], tl.float32)
    for start in tl.static_range(0, WIDTH, STEP):
        loaded = tl.load(x + start + group, eviction_policy="evict_first").to(tl.float32)
        if UNSCALED:
            loaded = scale_product(loaded, factor, channel_scale, bias, start + group, True)
        squares += loaded * loaded
        groups += (loaded,)
    inverse = tl.rsqrt(tl.sum(tl.reshape(squares, [STEP])) / WIDTH + EPS)

    for i in tl.static_range(WIDTH // STEP):
        weight = tl.load(scale + i * STEP + group).to(tl.float32)
        normed = (groups[i] * inverse * weight).to(dtype).to(tl.float32)
        even, odd = tl.split(tl.reshape(normed, [HEADS, CHANNELS // 2, 2]))
        pairs = tl.join(even * cos - odd * sin, even * sin + odd * cos)
        rotated = tl.reshape(pairs, [HEADS, CHANNELS])
        if HISTORY:
            heads = gain + i * HEADS + tl.arange(0, HEADS)[:, None]
            factor = tl.load(heads, mask=token < HISTORY, other=1.0)
            rotated = rotated.to(dtype).to(tl.float32) * factor
        tl.store(result + i * STEP + group, rotated.to(dtype))


@triton.jit
@no_type_check
def norm_rope_body(
    qkv,
    scale_q,
    scale_k,
    cos,
    sin,
    gain,
    token_scale,
    channel_scale,
    bias,
    query,
    key,
    value,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,  # tokens from this one on have no keys and values
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HISTORY: tl.constexpr,
    EPS: tl.constexpr,
    UNSCALED: tl.constexpr,  # `qkv` is a product without its scales
):
    token = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row = (batch * TOKENS + token) * WIDTH
    key_row = (batch * KEYS + token) * WIDTH
    # Every head has the same angles; rows of them, rather than one, are loaded into the threads
    # that hold their pairs.
    pairs = (
        token * (CHANNELS // 2)
        + tl.zeros([HEADS, 1], tl.int32)
        + tl.arange(0, CHANNELS // 2)[None, :]
    )
    c = tl.load(cos + pairs)
    s = tl.load(sin + pairs)
    factor = tl.load(token_scale + batch * TOKENS + token) if UNSCALED else 1.0
    _rotate(
        qkv + 3 * row,
        query + row,
        scale_q,
        gain,
        c,
        s,
        factor,
        channel_scale,
        bias,
        token,
        WIDTH,
        HEADS,
        CHANNELS,
        0,
        EPS,
        UNSCALED,
    )
    if token < KEYS:
        _rotate(
            qkv + 3 * row + WIDTH,
            key + key_row,
            scale_k,
            gain,
            c,
            s,
            factor,
            channel_scale + WIDTH,
            bias + WIDTH,
            token,
            WIDTH,
            HEADS,
            CHANNELS,
            HISTORY,
            EPS,
            UNSCALED,
        )
        # 2 x 113 MB at 11040 tokens, the same that XLA would move to make the values contiguous for
        # attention, in a launch of its own.
        for start in tl.static_range(0, WIDTH, HEADS * CHANNELS):
            group = start + tl.arange(0, HEADS * CHANNELS)
            loaded = tl.load(qkv + 3 * row + 2 * WIDTH + group, eviction_policy="evict_first")
            if UNSCALED:
                own = 2 * WIDTH + group
                sums = loaded.to(tl.float32)
                loaded = scale_product(sums, factor, channel_scale, bias, own, True)
            tl.store(value + key_row + group, loaded.to(value.dtype.element_ty))


def launch(
    qkv: jax.Array | UnscaledProduct, history: int, eps: float, keys: int | None = None
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Grid and constants of the kernel."""
    B, N, _, K, d = qkv.shape
    heads = math.gcd(K, GROUP // d)  # the largest power of two that divides K, up to a full group
    constants = dict(
        TOKENS=N,
        KEYS=N if keys is None else keys,
        WIDTH=K * d,
        HEADS=heads,
        CHANNELS=d,
        HISTORY=history,
        EPS=eps,
        UNSCALED=isinstance(qkv, UnscaledProduct),
    )
    return (N, B), constants


def norm_rope(
    qkv: Float[Array, "B N 3 K d"] | UnscaledProduct,
    scales: tuple[Float[Array, "width"], Float[Array, "width"]],
    rope: tuple[Float[Array, "N pairs"], Float[Array, "N pairs"]],
    key_gain: Float[Array, "K"] | None = None,
    *,
    history: int,
    eps: float,
    keys: int | None = None,
) -> tuple[Float[Array, "B N K d"], Float[Array, "B S K d"], Float[Array, "B S K d"]]:
    """As the plain version, for heads of a power of two of channels."""
    B, N, _, K, d = qkv.shape
    grid, constants = launch(qkv, 0 if key_gain is None else history, eps, keys)
    gain = jnp.ones(K, jnp.float32) if key_gain is None else key_gain
    queries = jax.ShapeDtypeStruct((B, N, K, d), qkv.dtype)
    part = jax.ShapeDtypeStruct((B, constants["KEYS"], K, d), qkv.dtype)
    # Of another array, itself stands for the scales and the bias, which are not read.
    sums, *unscaled = qkv if isinstance(qkv, UnscaledProduct) else (qkv, qkv, qkv, qkv)
    query, key, value = triton_call(
        *(sums, *scales, *rope, gain, *unscaled),
        kernel=norm_rope_body,
        name="helios_norm_rope",
        out_shape=[queries, part, part],
        grid=grid,
        num_warps=max(1, constants["HEADS"] * d * qkv.dtype.itemsize // (16 * 32)),
        **constants,
    )
    return query, key, value
