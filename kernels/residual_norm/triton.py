"""The fused kernel in Triton: one program a token, which holds all its channels in registers from
the only read to the only write.

A program is small, four warps with 16 bytes a thread and load, so that many of them keep the memory
busy while others reduce. The weights that programs share come from the L1 cache; the tokens
themselves are streamed past it.
"""

from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import triton
import triton.language as tl
from jaxtyping import Array, Float

from ..quantize.triton import round_to_float8, scale_of, scale_product
from ..quantize.types import FLOAT8, Quantized, UnscaledProduct
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
def _scaled(
    sums, own, token_scale, channel_scale, bias, there, CHUNK: tl.constexpr, CHUNKS: tl.constexpr
):
    """A token's chunks of a product with scales and bias; zeros where the token is not there."""
    factor = tl.load(token_scale + own, mask=there, other=0.0)
    chunks = ()
    for i in tl.static_range(CHUNKS):
        channels = i * CHUNK + tl.arange(0, CHUNK)
        chunks += (scale_product(sums[i], factor, channel_scale, bias, channels, there),)
    return chunks


@triton.jit
@no_type_check
def residual_norm_body(
    x,
    y,
    gate,
    scale,
    shift,
    token_scale,
    channel_scale,
    bias,
    added,
    normed,
    normed_scale,
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
    UNSCALED: tl.constexpr,  # `y`, or `x` where there is none, is a product without its scales
    QUANTIZED: tl.constexpr,
):
    token = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    segment = (token >= HISTORY).to(tl.int32)
    CHANNELS: tl.constexpr = CHUNK * CHUNKS
    row = batch * TOKENS + token
    value = _load(x + row * CHANNELS, CHUNK, CHUNKS, True)
    dtype = x.dtype.element_ty
    if UNSCALED:
        dtype = bias.dtype.element_ty
        if ADD_FROM is None:
            value = _scaled(value, row, token_scale, channel_scale, bias, True, CHUNK, CHUNKS)

    if ADD_FROM is not None:
        own = batch * (TOKENS - ADD_FROM) + token - ADD_FROM
        there = token >= ADD_FROM
        terms = _load(y + own * CHANNELS, CHUNK, CHUNKS, there)
        if UNSCALED:
            terms = _scaled(terms, own, token_scale, channel_scale, bias, there, CHUNK, CHUNKS)
        sums = ()
        for i in tl.static_range(CHUNKS):
            term = terms[i]
            if GATE is not None:
                term *= _weight(gate, GATE, batch, segment, i * CHUNK, CHUNK)
            sums += ((value[i] + term).to(added.dtype.element_ty),)
        _store(added + row * CHANNELS, sums, CHUNK, CHUNKS, there if IN_PLACE else True)
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
            results += (result.to(dtype),)
        own = batch * (TOKENS - NORM_FROM) + token - NORM_FROM
        if QUANTIZED:
            rounded = ()
            largest = tl.zeros([CHUNK], tl.float32)
            for i in tl.static_range(CHUNKS):
                rounded += (results[i].to(tl.float32),)
                largest = tl.maximum(largest, tl.abs(rounded[i]))
            factor = scale_of(tl.max(largest, 0))
            tl.store(normed_scale + own, factor, mask=token >= NORM_FROM)
            results = ()
            for i in tl.static_range(CHUNKS):
                results += (round_to_float8(rounded[i], factor),)
        _store(normed + own * CHANNELS, results, CHUNK, CHUNKS, token >= NORM_FROM)


def chunk_size(channels: int) -> int:
    """The largest power of two that divides a token's channels, up to :data:`CHUNK`."""
    return min(channels & -channels, CHUNK)


def launch(
    x, y, gate, scale, shift, fusion: Fusion
) -> tuple[tuple, list[jax.Array], list[jax.ShapeDtypeStruct], dict[str, Any]]:
    """Grid, arrays, shapes of the results and constants of the kernel.

    In the place of what is absent stands something that is never touched, among the arrays ``x``
    itself only where it is not overwritten.
    """
    B, N, D = x.shape
    dtype = x.dtype
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
        UNSCALED=isinstance(x if y is None else y, UnscaledProduct),
        QUANTIZED=fusion.quantized,
    )
    unscaled = [None, None, None]
    if isinstance(x, UnscaledProduct):
        x, *unscaled = x
    if isinstance(y, UnscaledProduct):
        y, *unscaled = y
    stand_in = x if y is None else y
    given = (x, y, gate, scale, shift, *unscaled)
    arrays = [stand_in if array is None else array for array in given]
    nothing = jax.ShapeDtypeStruct((), dtype)
    results = [nothing, nothing, nothing]
    if y is not None:
        results[0] = jax.ShapeDtypeStruct(x.shape, dtype)
    if fusion.norm is not None:
        tokens = (B, N - fusion.norm_from)
        results[1] = jax.ShapeDtypeStruct((*tokens, D), FLOAT8 if fusion.quantized else dtype)
        if fusion.quantized:
            results[2] = jax.ShapeDtypeStruct(tokens, jnp.float32)
    return (N, B), arrays, results, constants


def _strides(weight):
    """Elements from one sample, and from one segment, to the next: 0 where all share one row."""
    if weight is None:
        return None
    batch, segments, channels = weight.shape
    return (segments * channels if batch > 1 else 0, channels if segments > 1 else 0)


def residual_norm(
    x: Float[Array, "B N D"] | UnscaledProduct,
    y: Float[Array, "B n_y D"] | UnscaledProduct | None,
    gate: Float[Array, "#B #2 D"] | None,
    scale: Float[Array, "#B #2 D"] | None,
    shift: Float[Array, "#B #2 D"] | None,
    fusion: Fusion,
) -> tuple[Float[Array, "B N D"] | None, Float[Array, "B n_normed D"] | Quantized | None]:
    """``added`` and ``normed``, None for what is not asked for; see :mod:`.fusion`."""
    grid, arrays, results, constants = launch(x, y, gate, scale, shift, fusion)
    added, normed, normed_scale = triton_call(
        *arrays,
        kernel=residual_norm_body,
        name="helios_residual_norm",
        out_shape=results,
        input_output_aliases={0: 0} if constants["IN_PLACE"] else {},
        grid=grid,
        num_warps=4,
        **constants,
    )
    return asked_for(added, normed, normed_scale, y, fusion)


def asked_for(
    added, normed, normed_scale, y, fusion: Fusion
) -> tuple[jax.Array | None, jax.Array | Quantized | None]:
    """The results that a call asks for, of all that the kernel returns."""
    if fusion.quantized:
        normed = Quantized(normed, normed_scale)
    return (None if y is None else added), (None if fusion.norm is None else normed)
