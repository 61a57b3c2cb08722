"""The fused kernel in Triton: one program a token, which holds all its channels in registers from
the only read to the only write.

A program is small, four warps with 16 bytes a thread and load, so that many of them keep the memory
busy while others reduce. The weights that programs share come from the L1 cache; the tokens
themselves are streamed past it.
"""

from typing import Any, no_type_check

import jax
import triton
import triton.language as tl
from jaxtyping import Array, Float

from ..triton_calls import triton_call
from .fusion import Fusion

CHUNK = 1024
"""Most channels that are loaded at a time."""

CHUNKS = 16
"""Most chunks of a token: they all stay in registers."""


@triton.jit
@no_type_check
def _load(token, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, mask):
    """A token's chunks in float32; zeros if masked. Tokens are read once and need no place in the
    caches.
    """
    chunks = ()
    for i in tl.static_range(CHUNKS):
        chunk = tl.load(
            token + i * CHUNK + tl.arange(0, CHUNK),
            mask=mask,
            other=0.0,
            eviction_policy="evict_first",
        )
        chunks += (chunk.to(tl.float32),)
    return chunks


@triton.jit
@no_type_check
def _store(token, chunks, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, mask):
    """Write a token's chunks, all after the last load: a load that follows a store has to wait for
    it, as they might overlap.
    """
    for i in tl.static_range(CHUNKS):
        tl.store(token + i * CHUNK + tl.arange(0, CHUNK), chunks[i], mask=mask)


@triton.jit
@no_type_check
def _weight(weight, STRIDES: tl.constexpr, batch, segment, first, CHUNK: tl.constexpr):
    """A chunk of the weight of a segment, in float32."""
    return tl.load(
        weight + batch * STRIDES[0] + segment * STRIDES[1] + first + tl.arange(0, CHUNK)
    ).to(tl.float32)


@triton.jit
@no_type_check
def _mean(chunks, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    """The mean over a token's channels. Chunks are added first, so that threads exchange once."""
    total = chunks[0]
    for i in tl.static_range(1, CHUNKS):
        total += chunks[i]
    return tl.sum(total, 0) / (CHUNK * CHUNKS)


@triton.jit
@no_type_check
def residual_norm_body(
    x,
    y,
    gate,
    scale,
    shift,
    added,
    normed,
    TOKENS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    HISTORY: tl.constexpr,  # tokens before this one take the weights' first row
    ADD_FROM: tl.constexpr,  # tokens before this one have no `y`; None: none has
    NORM_FROM: tl.constexpr,  # tokens before this one are not normed; None: none is
    # Strides over batch and segments of each weight, or None where there is none.
    GATE: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    CENTER: tl.constexpr,
    EPS: tl.constexpr,
    IN_PLACE: tl.constexpr,
):
    token = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    segment = (token >= HISTORY).to(tl.int32)
    CHANNELS: tl.constexpr = CHUNK * CHUNKS
    value = _load(x + (batch * TOKENS + token) * CHANNELS, CHUNK, CHUNKS, True)

    if ADD_FROM is not None:
        terms = _load(
            y + (batch * (TOKENS - ADD_FROM) + token - ADD_FROM) * CHANNELS,
            CHUNK,
            CHUNKS,
            token >= ADD_FROM,
        )
        sums = ()
        for i in tl.static_range(CHUNKS):
            term = terms[i]
            if GATE is not None:
                term *= _weight(gate, GATE, batch, segment, i * CHUNK, CHUNK)
            sums += ((value[i] + term).to(added.dtype.element_ty),)
        _store(
            added + (batch * TOKENS + token) * CHANNELS,
            sums,
            CHUNK,
            CHUNKS,
            token >= ADD_FROM if IN_PLACE else True,
        )
        value = ()
        for i in tl.static_range(CHUNKS):
            value += (sums[i].to(tl.float32),)

    if NORM_FROM is not None:
        if CENTER:
            mean = _mean(value, CHUNK, CHUNKS)
            centered = ()
            for i in tl.static_range(CHUNKS):
                centered += (value[i] - mean,)
            value = centered
        squares = ()
        for i in tl.static_range(CHUNKS):
            squares += (value[i] * value[i],)
        inverse = tl.rsqrt(_mean(squares, CHUNK, CHUNKS) + EPS)
        results = ()
        for i in tl.static_range(CHUNKS):
            result = value[i] * inverse
            if SCALE is not None:
                result *= _weight(scale, SCALE, batch, segment, i * CHUNK, CHUNK)
            if SHIFT is not None:
                result += _weight(shift, SHIFT, batch, segment, i * CHUNK, CHUNK)
            results += (result.to(normed.dtype.element_ty),)
        _store(
            normed + (batch * (TOKENS - NORM_FROM) + token - NORM_FROM) * CHANNELS,
            results,
            CHUNK,
            CHUNKS,
            token >= NORM_FROM,
        )


def chunk_size(channels: int) -> int:
    """The largest power of two that divides a token's channels, up to :data:`CHUNK`."""
    return min(channels & -channels, CHUNK)


def launch(x, y, gate, scale, shift, fusion: Fusion) -> tuple[tuple, tuple, dict[str, Any]]:
    """Grid, shapes of the results (None where there is none) and constants of the kernel."""
    B, N, D = x.shape
    chunk = chunk_size(D)
    add_from = None if y is None else N - y.shape[1]
    constants = dict(
        TOKENS=N,
        CHUNK=chunk,
        CHUNKS=D // chunk,
        HISTORY=fusion.history,
        ADD_FROM=add_from,
        NORM_FROM=fusion.norm and fusion.norm_from,
        GATE=_strides(gate),
        SCALE=_strides(scale),
        SHIFT=_strides(shift),
        CENTER=fusion.norm == "layer",
        EPS=fusion.eps,
        # Tokens that nothing is added to stay where they are. Otherwise a new array is better: a
        # backward pass needs the old one, too.
        IN_PLACE=bool(add_from),
    )
    added = None
    if y is not None:
        added = jax.ShapeDtypeStruct(x.shape, x.dtype)
    normed = None
    if fusion.norm is not None:
        normed = jax.ShapeDtypeStruct((B, N - fusion.norm_from, D), x.dtype)
    return (N, B), (added, normed), constants


def _strides(weight):
    """Elements from one sample, and from one segment, to the next: 0 where all share one row."""
    if weight is None:
        return None
    batch, segments, channels = weight.shape
    return (segments * channels if batch > 1 else 0, channels if segments > 1 else 0)


def residual_norm(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"] | None,
    gate: Float[Array, "#B #2 D"] | None,
    scale: Float[Array, "#B #2 D"] | None,
    shift: Float[Array, "#B #2 D"] | None,
    fusion: Fusion,
) -> tuple[Float[Array, "B N D"] | None, Float[Array, "B n_normed D"] | None]:
    """``added`` and ``normed``, None for what is not asked for; see :mod:`.fusion`."""
    grid, results, constants = launch(x, y, gate, scale, shift, fusion)
    # An absent array needs something in its place that is never touched; `x` itself only where it
    # is not overwritten.
    unused = jax.ShapeDtypeStruct((), x.dtype)
    stand_in = x if y is None else y
    arrays = (stand_in if array is None else array for array in (x, y, gate, scale, shift))
    added, normed = triton_call(
        *arrays,
        kernel=residual_norm_body,
        name="helios_residual_norm",
        out_shape=[result or unused for result in results],
        input_output_aliases={0: 0} if constants["IN_PLACE"] else {},
        grid=grid,
        num_warps=4,
        **constants,
    )
    return (None if y is None else added), (None if fusion.norm is None else normed)
