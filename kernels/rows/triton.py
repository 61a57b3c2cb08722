"""The row kernel in Triton: one program a token, which holds the whole row in registers from the
only read to the only write.

A program is small, four warps with 16 bytes a thread and load, so that many of them keep the memory
busy while others reduce; what weights they share comes from the L1 cache, past which the rows
themselves are streamed.
"""

from typing import no_type_check

import jax
import triton
import triton.language as tl

from ..dispatch import target

CHUNK = 1024
"""Most channels that are loaded at a time."""

CHUNKS = 16
"""Most chunks of a row: they all stay in registers."""


@triton.jit
@no_type_check
def _load(row, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, mask):
    """A row's chunks in float32; zeros if masked. Rows are read once and need no place in the
    caches.
    """
    chunks = ()
    for i in tl.static_range(CHUNKS):
        chunk = tl.load(
            row + i * CHUNK + tl.arange(0, CHUNK),
            mask=mask,
            other=0.0,
            eviction_policy="evict_first",
        )
        chunks += (chunk.to(tl.float32),)
    return chunks


@triton.jit
@no_type_check
def _store(row, chunks, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, mask):
    """Write a row's chunks, all after the last load: a load that follows a store has to wait for
    it, as they might overlap.
    """
    for i in tl.static_range(CHUNKS):
        tl.store(row + i * CHUNK + tl.arange(0, CHUNK), chunks[i], mask=mask)


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
    """Over a row. The chunks are added up first: threads exchange once."""
    total = chunks[0]
    for i in tl.static_range(1, CHUNKS):
        total += chunks[i]
    return tl.sum(total, 0) / (CHUNK * CHUNKS)


@triton.jit
@no_type_check
def row_kernel_body(
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
    GATE: tl.constexpr,  # strides over batch and segments, or None where there is no such array; so are the next two
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    CENTER: tl.constexpr,
    EPS: tl.constexpr,
    IN_PLACE: tl.constexpr,
):
    token, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    segment = (token >= HISTORY).to(tl.int32)
    CHANNELS: tl.constexpr = CHUNK * CHUNKS
    row = _load(x + (batch * TOKENS + token) * CHANNELS, CHUNK, CHUNKS, True)

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
            sums += ((row[i] + term).to(added.dtype.element_ty),)
        _store(
            added + (batch * TOKENS + token) * CHANNELS,
            sums,
            CHUNK,
            CHUNKS,
            token >= ADD_FROM if IN_PLACE else True,
        )
        row = ()
        for i in tl.static_range(CHUNKS):
            row += (sums[i].to(tl.float32),)

    if NORM_FROM is not None:
        if CENTER:
            mean = _mean(row, CHUNK, CHUNKS)
            centered = ()
            for i in tl.static_range(CHUNKS):
                centered += (row[i] - mean,)
            row = centered
        squares = ()
        for i in tl.static_range(CHUNKS):
            squares += (row[i] * row[i],)
        inverse = tl.rsqrt(_mean(squares, CHUNK, CHUNKS) + EPS)
        results = ()
        for i in tl.static_range(CHUNKS):
            result = row[i] * inverse
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
    """The largest power of two that divides a row, up to :data:`CHUNK`."""
    return min(channels & -channels, CHUNK)


def launch(x, y, gate, scale, shift, *, history=0, eps=0.0, norm=None, norm_from=0):
    """Grid, shapes of the results (None where there is none) and constants of the kernel."""
    (B, N, D), chunk = x.shape, chunk_size(x.shape[-1])
    add_from = None if y is None else N - y.shape[1]
    constants = dict(
        TOKENS=N,
        CHUNK=chunk,
        CHUNKS=D // chunk,
        HISTORY=history,
        ADD_FROM=add_from,
        NORM_FROM=norm and norm_from,
        GATE=_strides(gate),
        SCALE=_strides(scale),
        SHIFT=_strides(shift),
        CENTER=norm == "layer",
        EPS=eps,
        # Tokens that nothing is added to stay where they are. Otherwise a new array is better: a
        # backward pass wants the old one, too.
        IN_PLACE=bool(add_from),
    )
    added = None if y is None else jax.ShapeDtypeStruct(x.shape, x.dtype)
    normed = None if norm is None else jax.ShapeDtypeStruct((B, N - norm_from, D), x.dtype)
    return (N, B), (added, normed), constants


def _strides(weight):
    """Elements from one batch row, and from one segment, to the next: 0 where all share one."""
    if weight is None:
        return None
    batch, segments, channels = weight.shape
    return (segments * channels if batch > 1 else 0, channels if segments > 1 else 0)


def row_kernel(x, y=None, gate=None, scale=None, shift=None, **case):
    """``added`` and ``normed``, None for what is not asked for; arguments as in
    :func:`.api.implementations`.
    """
    import jax_triton

    grid, results, constants = launch(x, y, gate, scale, shift, **case)
    # What is absent needs something in its place that is never touched; `x` itself only where it is
    # not to be overwritten.
    unused = jax.ShapeDtypeStruct((), x.dtype)
    stand_in = x if y is None else y
    outputs = jax_triton.triton_call(
        *(stand_in if array is None else array for array in (x, y, gate, scale, shift)),
        kernel=row_kernel_body,
        name="helios_rows",
        out_shape=[result or unused for result in results],
        input_output_aliases={0: 0} if constants["IN_PLACE"] else {},
        grid=grid,
        num_warps=4,
        # Known without asking the driver, which is not there when a program is compiled for a GPU
        # elsewhere.
        compute_capability=90 if target().is_hopper else None,
        **constants,
    )
    return tuple(output if result else None for output, result in zip(outputs, results))
