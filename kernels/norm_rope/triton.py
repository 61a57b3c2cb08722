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
    token,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,  # heads of a group
    CHANNELS: tl.constexpr,  # channels of a head
    HISTORY: tl.constexpr,  # heads of the tokens before this one are multiplied by `gain`
    EPS: tl.constexpr,
):
    """Norm and rotate one token's queries or keys."""
    dtype = result.dtype.element_ty
    STEP: tl.constexpr = HEADS * CHANNELS
    group = tl.arange(0, HEADS)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    groups = ()
    squares = tl.zeros([HEADS, CHANNELS], tl.float32)
    for start in tl.static_range(0, WIDTH, STEP):
        loaded = tl.load(x + start + group, eviction_policy="evict_first").to(tl.float32)
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
    _rotate(qkv + 3 * row, query + row, scale_q, gain, c, s, token, WIDTH, HEADS, CHANNELS, 0, EPS)
    if token < KEYS:
        _rotate(
            qkv + 3 * row + WIDTH,
            key + key_row,
            scale_k,
            gain,
            c,
            s,
            token,
            WIDTH,
            HEADS,
            CHANNELS,
            HISTORY,
            EPS,
        )
        # 2 x 113 MB at 11040 tokens, the same that XLA would move to make the values contiguous for
        # attention, in a launch of its own.
        for start in tl.static_range(0, WIDTH, HEADS * CHANNELS):
            group = start + tl.arange(0, HEADS * CHANNELS)
            loaded = tl.load(qkv + 3 * row + 2 * WIDTH + group, eviction_policy="evict_first")
            tl.store(value + key_row + group, loaded)


def launch(
    qkv: jax.Array, history: int, eps: float, keys: int | None = None
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
    )
    return (N, B), constants


def norm_rope(
    qkv: Float[Array, "B N 3 K d"],
    scales: tuple[Float[Array, "K*d"], Float[Array, "K*d"]],
    rope: tuple[Float[Array, "N d//2"], Float[Array, "N d//2"]],
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
    query, key, value = triton_call(
        *(qkv, *scales, *rope, gain),
        kernel=norm_rope_body,
        name="helios_norm_rope",
        out_shape=[queries, part, part],
        grid=grid,
        num_warps=max(1, constants["HEADS"] * d * qkv.dtype.itemsize // (16 * 32)),
        **constants,
    )
    return query, key, value
