"""The backward pass of the fused kernel in Triton: one program some consecutive tokens of a
segment, which it reads once, and whose sums for the weights' gradients it holds in registers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import triton
import triton.language as tl
from jaxtyping import Array, Float

from ..triton_calls import triton_call
from .fusion import Fusion
from .gradient import Arrays, Gradients, segment_sums
from .triton import _load, _mean, _store, _strides, _weight, chunk_size

TOKENS = 32
"""Tokens a program takes: its sums, of which it writes a row for each weight, are then a few per
cent of what it reads and writes.
"""


@triton.jit
@no_type_check
def _zeros(CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    chunks = ()
    for _ in tl.static_range(CHUNKS):
        chunks += (tl.zeros([CHUNK], tl.float32),)
    return chunks


@triton.jit
@no_type_check
def _sum_of_products(sums, left, right, CHUNKS: tl.constexpr):
    """``sums + left · right``, chunk by chunk."""
    results = ()
    for i in tl.static_range(CHUNKS):
        results += (sums[i] + left[i] * right[i],)
    return results


@triton.jit
@no_type_check
def residual_norm_backward_body(
    x,
    y,
    gate,
    scale,
    d_added,
    d_normed,
    d_x,
    d_y,
    gate_sums,
    scale_sums,
    shift_sums,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,  # tokens of a program
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    HISTORY: tl.constexpr,  # tokens before this one take the weights' first row
    ADD_FROM: tl.constexpr,  # tokens before this one have no `y`; None: none has
    NORM_FROM: tl.constexpr,  # tokens before this one are not normed; None: none is
    # Strides over batch and segments of each weight, or None where there is none.
    GATE: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFTS: tl.constexpr,  # whether the norm has a shift
    CENTER: tl.constexpr,
    EPS: tl.constexpr,
):
    program = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    CHANNELS: tl.constexpr = CHUNK * CHUNKS
    BEFORE: tl.constexpr = (HISTORY + BLOCK - 1) // BLOCK  # programs of history
    segment = (program >= BEFORE).to(tl.int32)
    first = program * BLOCK + segment * (HISTORY - BEFORE * BLOCK)
    stop = tl.minimum(first + BLOCK, HISTORY + segment * (TOKENS - HISTORY))
    if GATE is not None:
        gate_sum = _zeros(CHUNK, CHUNKS)
    if SCALE is not None:
        scale_sum = _zeros(CHUNK, CHUNKS)
    if SHIFTS:
        shift_sum = _zeros(CHUNK, CHUNKS)

    for number in tl.range(BLOCK):
        token = first + number
        is_own = token < stop
        row = (batch * TOKENS + token) * CHANNELS
        if ADD_FROM is not None:
            gradient = _load(d_added + row, CHUNK, CHUNKS, is_own)
            y_row = (batch * (TOKENS - ADD_FROM) + token - ADD_FROM) * CHANNELS
            has_y = is_own & (token >= ADD_FROM)
            terms = _load(y + y_row, CHUNK, CHUNKS, has_y)
        if NORM_FROM is not None:
            value = _load(x + row, CHUNK, CHUNKS, is_own)
            if ADD_FROM is not None:
                added = ()
                for i in tl.static_range(CHUNKS):
                    term = terms[i]
                    if GATE is not None:
                        term *= _weight(gate, GATE, batch, segment, i * CHUNK, CHUNK)
                    added += ((value[i] + term).to(d_x.dtype.element_ty).to(tl.float32),)
                value = added
            if CENTER:
                mean = _mean(value, CHUNK, CHUNKS)
                centered = ()
                for i in tl.static_range(CHUNKS):
                    centered += (value[i] - mean,)
                value = centered
            squares = _sum_of_products(_zeros(CHUNK, CHUNKS), value, value, CHUNKS)
            inverse = tl.rsqrt(_mean(squares, CHUNK, CHUNKS) + EPS)
            normed = ()
            for i in tl.static_range(CHUNKS):
                normed += (value[i] * inverse,)

            normed_row = (batch * (TOKENS - NORM_FROM) + token - NORM_FROM) * CHANNELS
            is_normed = is_own & (token >= NORM_FROM)
            outer = _load(d_normed + normed_row, CHUNK, CHUNKS, is_normed)
            if SHIFTS:
                shifted = ()
                for i in tl.static_range(CHUNKS):
                    shifted += (shift_sum[i] + outer[i],)
                shift_sum = shifted
            if SCALE is not None:
                scale_sum = _sum_of_products(scale_sum, outer, normed, CHUNKS)
                scaled = ()
                for i in tl.static_range(CHUNKS):
                    weight = _weight(scale, SCALE, batch, segment, i * CHUNK, CHUNK)
                    scaled += (outer[i] * weight,)
                outer = scaled
            # A norm's gradient has no part along what it takes from all tokens: their size, and
            # their mean.
            along = _sum_of_products(_zeros(CHUNK, CHUNKS), outer, normed, CHUNKS)
            size = _mean(along, CHUNK, CHUNKS)
            common = 0.0
            if CENTER:
                common = _mean(outer, CHUNK, CHUNKS)
            inner = ()
            for i in tl.static_range(CHUNKS):
                part = (outer[i] - common - normed[i] * size) * inverse
                if ADD_FROM is not None:
                    part += gradient[i]
                inner += (part,)
            gradient = inner
            results = ()
            for i in tl.static_range(CHUNKS):
                results += (gradient[i].to(d_x.dtype.element_ty),)
            _store(d_x + row, results, CHUNK, CHUNKS, is_own)
        if GATE is not None:
            gate_sum = _sum_of_products(gate_sum, gradient, terms, CHUNKS)
            results = ()
            for i in tl.static_range(CHUNKS):
                weight = _weight(gate, GATE, batch, segment, i * CHUNK, CHUNK)
                results += ((gradient[i] * weight).to(d_y.dtype.element_ty),)
            _store(d_y + y_row, results, CHUNK, CHUNKS, has_y)

    sums_row = (batch * tl.num_programs(0) + program) * CHANNELS
    if GATE is not None:
        _store(gate_sums + sums_row, gate_sum, CHUNK, CHUNKS, True)
    if SCALE is not None:
        _store(scale_sums + sums_row, scale_sum, CHUNK, CHUNKS, True)
    if SHIFTS:
        _store(shift_sums + sums_row, shift_sum, CHUNK, CHUNKS, True)


class Launch(NamedTuple):
    """How the kernel is started.

    Attributes:
      grid: programs a sample, and samples.
      results: shapes of ``d_x``, ``d_y`` and of the programs' sums for gate, scale and shift; None
        for what is not computed.
      constants: by name.
      history_programs: the first programs, of history tokens.
    """

    grid: tuple[int, int]
    results: tuple[jax.ShapeDtypeStruct | None, ...]
    constants: dict[str, Any]
    history_programs: int

    def gradients(self, found: Sequence[Array], d_added: Array | None) -> Gradients:
        """What the kernel has written, as ``residual_norm_backward`` returns it."""
        d_x, d_y, *sums = (
            None if result is None else array for result, array in zip(self.results, found)
        )
        by_segment = [None if x is None else segment_sums(x, self.history_programs) for x in sums]
        return d_added if d_x is None else d_x, d_y, tuple(by_segment)


def launch(arrays: Arrays, fusion: Fusion) -> Launch:
    """How the kernel is started for these arguments of the forward pass."""
    x, y, gate, scale, shift = arrays
    B, N, D = x.shape
    chunk = chunk_size(D)
    before = -(-fusion.history // TOKENS)
    programs = before - (fusion.history - N) // TOKENS
    constants = dict(
        TOKENS=N,
        BLOCK=TOKENS,
        CHUNK=chunk,
        CHUNKS=D // chunk,
        HISTORY=fusion.history,
        ADD_FROM=None if y is None else N - y.shape[1],
        NORM_FROM=fusion.norm and fusion.norm_from,
        GATE=_strides(gate),
        SCALE=_strides(scale),
        SHIFTS=shift is not None,
        CENTER=fusion.norm == "layer",
        EPS=fusion.eps,
    )
    sums = jax.ShapeDtypeStruct((B, programs, D), jnp.float32)
    results = (
        jax.ShapeDtypeStruct(x.shape, x.dtype) if fusion.norm else None,
        jax.ShapeDtypeStruct(y.shape, y.dtype) if gate is not None else None,
        *(None if weight is None else sums for weight in (gate, scale, shift)),
    )
    return Launch((programs, B), results, constants, before)


def residual_norm_backward(
    arrays: Arrays,
    gradients: tuple[Float[Array, "B N D"] | None, Float[Array, "B n_normed D"] | None],
    fusion: Fusion,
) -> Gradients:
    """``d_x``, ``d_y`` where there is a gate, and the sums of each weight; see :mod:`.gradient`.

    Args:
      arrays: of the forward pass.
      gradients: of ``added`` and ``normed``.
      fusion: of the forward pass.
    """
    x, y, gate, scale, _ = arrays
    d_added, d_normed = gradients
    started = launch(arrays, fusion)
    stand_in: Any = d_normed if d_added is None else d_added
    read = (x, y, gate, scale, d_added, d_normed)
    unused = jax.ShapeDtypeStruct((), x.dtype)
    found = triton_call(
        *(stand_in if array is None else array for array in read),
        kernel=residual_norm_backward_body,
        name="helios_residual_norm_backward",
        out_shape=[result or unused for result in started.results],
        grid=started.grid,
        num_warps=8,
        **started.constants,
    )
    return started.gradients(found, d_added)
