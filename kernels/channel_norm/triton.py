"""The norm over channels in Triton: one program some pixels, frame after frame, each of which stays
in registers from its read to its write.

As the program of a pixel reads all of its past before it writes the frames that are kept, these may
take the place of the past.
"""

from typing import Any, no_type_check

import jax
import triton
import triton.language as tl
from jaxtyping import Array, Float

from ..triton_calls import triton_call

ELEMENTS = 4096
"""Channels of all pixels of a program, those that fill pixels up to a power of two among them: 32 a
thread of four warps.
"""


@triton.jit
@no_type_check
def channel_norm_body(
    x,
    gamma,
    past,
    frames,
    last,
    FRAMES: tl.constexpr,  # of `x`
    REACH: tl.constexpr,  # frames of `past` and `last`
    PIXELS: tl.constexpr,  # of a frame
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,  # pixels of a program
    BLOCK: tl.constexpr,  # channels and what fills them up to a power of two
    ROOT: tl.constexpr,  # √C
    HAS_PAST: tl.constexpr,
    KEEP: tl.constexpr,
    SILU: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    pixels = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, BLOCK)
    there = channels < CHANNELS
    mask = (pixels < PIXELS)[:, None] & there[None, :]
    place = pixels.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
    FRAME: tl.constexpr = PIXELS * CHANNELS
    x += batch * FRAMES * FRAME
    frames += batch * (REACH + FRAMES) * FRAME
    if HAS_PAST:
        past += batch * REACH * FRAME
    if KEEP:
        last += batch * REACH * FRAME
    gain = ROOT * tl.load(gamma + channels, mask=there, other=0.0).to(tl.float32)

    for t in tl.static_range(REACH):
        if HAS_PAST:
            old = tl.load(past + t * FRAME + place, mask=mask, other=0.0)
        else:
            old = tl.zeros([ROWS, BLOCK], x.dtype.element_ty)
        tl.store(frames + t * FRAME + place, old, mask=mask)
        if KEEP and t >= FRAMES:
            tl.store(last + (t - FRAMES) * FRAME + place, old, mask=mask)

    for t in tl.range(FRAMES):
        start = tl.cast(t, tl.int64) * FRAME
        loaded = tl.load(x + start + place, mask=mask, other=0.0, eviction_policy="evict_first")
        value = loaded.to(tl.float32)
        inverse = tl.rsqrt(tl.maximum(tl.sum(value * value, 1), 1e-24))
        value = value * inverse[:, None] * gain[None, :]
        if SILU:
            value *= tl.sigmoid(value)
        result = value.to(x.dtype.element_ty)
        tl.store(frames + REACH * FRAME + start + place, result, mask=mask)
        if KEEP:
            kept = mask & (t >= FRAMES - REACH)
            tl.store(last + (REACH - FRAMES) * FRAME + start + place, result, mask=kept)


def launch(
    x, gamma, past, *, silu: bool, reach: int, keep: bool
) -> tuple[tuple[int, int], list[jax.Array], list[jax.ShapeDtypeStruct], dict[str, Any]]:
    """Grid, arrays (an absent one replaced by one that is never read), shapes of the results and
    constants of the kernel.
    """
    B, T, Y, X, C = x.shape
    block = triton.next_power_of_2(C)
    rows = max(1, ELEMENTS // block)
    constants = dict(
        FRAMES=T,
        REACH=reach,
        PIXELS=Y * X,
        CHANNELS=C,
        ROWS=rows,
        BLOCK=block,
        ROOT=C**0.5,
        HAS_PAST=past is not None,
        KEEP=keep,
        SILU=silu,
    )
    frames = jax.ShapeDtypeStruct((B, reach + T, Y, X, C), x.dtype)
    last = jax.ShapeDtypeStruct((B, reach, Y, X, C) if keep else (), x.dtype)
    arrays = [x, gamma, x if past is None else past]
    return (-(-Y * X // rows), B), arrays, [frames, last], constants


def channel_norm(
    x: Float[Array, "B T Y X C"],
    gamma: Float[Array, "C"],
    past: Float[Array, "B r Y X C"] | None = None,
    *,
    silu: bool = False,
    reach: int = 0,
    keep: bool = False,
) -> tuple[Float[Array, "B _ Y X C"], Float[Array, "B r Y X C"] | None]:
    """As the plain version."""
    grid, arrays, results, constants = launch(x, gamma, past, silu=silu, reach=reach, keep=keep)
    in_place = past is not None and keep and x.shape[1] >= reach
    frames, last = triton_call(
        *arrays,
        kernel=channel_norm_body,
        name="helios_channel_norm",
        out_shape=results,
        input_output_aliases={2: 1} if in_place else {},
        grid=grid,
        num_warps=4,
        **constants,
    )
    return frames, last if keep else None
