"""The fused norm and rotation in Triton: one program a token, which holds its queries, then its
keys, in registers from their read to their write.

A token is cut into groups of heads of which every thread has 16 bytes, eight bfloat16 channels:
four whole pairs, so that none is rotated across threads. What tokens and heads share, weights and
angles, comes from the caches near the cores, past which the tokens themselves are streamed.
"""

import math
from typing import no_type_check

import jax
import jax.numpy as jnp
import triton
import triton.language as tl

from ..dispatch import target

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
    HEADS: tl.constexpr,  # of a group
    CHANNELS: tl.constexpr,
    HISTORY: tl.constexpr,  # tokens before this one have their heads multiplied by `gain`
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
        normed = (
            (groups[i] * inverse * tl.load(scale + i * STEP + group).to(tl.float32))
            .to(dtype)
            .to(tl.float32)
        )
        even, odd = tl.split(tl.reshape(normed, [HEADS, CHANNELS // 2, 2]))
        turned = tl.reshape(
            tl.join(even * cos - odd * sin, even * sin + odd * cos), [HEADS, CHANNELS]
        )
        if HISTORY:
            factor = tl.load(
                gain + i * HEADS + tl.arange(0, HEADS)[:, None], mask=token < HISTORY, other=1.0
            )
            turned = turned.to(dtype).to(tl.float32) * factor
        tl.store(result + i * STEP + group, turned.to(dtype))


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
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HISTORY: tl.constexpr,
    EPS: tl.constexpr,
):
    token = tl.program_id(0)
    row = (tl.program_id(1).to(tl.int64) * TOKENS + token) * WIDTH
    # Every head has the same angles; rows of them, rather than one, are loaded into the threads
    # that hold their pairs.
    pairs = (
        token * (CHANNELS // 2)
        + tl.zeros([HEADS, 1], tl.int32)
        + tl.arange(0, CHANNELS // 2)[None, :]
    )
    c, s = tl.load(cos + pairs), tl.load(sin + pairs)
    _rotate(qkv + 3 * row, query + row, scale_q, gain, c, s, token, WIDTH, HEADS, CHANNELS, 0, EPS)
    _rotate(
        qkv + 3 * row + WIDTH,
        key + row,
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
        tl.store(
            value + row + group,
            tl.load(qkv + 3 * row + 2 * WIDTH + group, eviction_policy="evict_first"),
        )


def launch(qkv, history, eps):
    """Grid and constants of the kernel."""
    B, N, _, K, d = qkv.shape
    heads = math.gcd(K, GROUP // d)  # the largest power of two that divides K, up to a full group
    return (N, B), dict(TOKENS=N, WIDTH=K * d, HEADS=heads, CHANNELS=d, HISTORY=history, EPS=eps)


def norm_rope(qkv, scale_q, scale_k, cos, sin, key_gain=None, *, history, eps):
    """As the reference, for heads of a power of two of channels."""
    import jax_triton

    B, N, _, K, d = qkv.shape
    grid, constants = launch(qkv, 0 if key_gain is None else history, eps)
    results = jax_triton.triton_call(
        *(
            qkv,
            scale_q,
            scale_k,
            cos,
            sin,
            jnp.ones(K, jnp.float32) if key_gain is None else key_gain,
        ),
        kernel=norm_rope_body,
        name="helios_norm_rope",
        out_shape=[jax.ShapeDtypeStruct((B, N, K, d), qkv.dtype)] * 3,
        grid=grid,
        num_warps=max(1, constants["HEADS"] * d * qkv.dtype.itemsize // (16 * 32)),
        # Known without asking the driver, which is not there when a program is compiled for a GPU
        # elsewhere.
        compute_capability=90 if target().is_hopper else None,
        **constants,
    )
    return tuple(results)
