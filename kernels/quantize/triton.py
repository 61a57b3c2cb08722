"""Rounding to float8 in Triton: one program a token, which stays in registers from its read to its
write. The two steps that other kernels share, scales and bias of a product and the rounding
itself, are functions of their own.
"""

from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import triton
import triton.language as tl

from ..triton_calls import triton_call
from .types import FLOAT8, Quantized, UnscaledProduct

ELEMENTS = 32
"""Channels of a token that a thread holds."""


@triton.jit
@no_type_check
def scale_product(sums, token_scale, channel_scale, bias, channels, mask):
    """Channels of one token of a product with its scales and its bias, in float32, rounded to the
    bias's dtype.
    """
    dtype = bias.dtype.element_ty
    y = sums * token_scale * tl.load(channel_scale + channels, mask=mask, other=0.0)
    shift = tl.load(bias + channels, mask=mask, other=0.0).to(tl.float32)
    return (y.to(dtype).to(tl.float32) + shift).to(dtype).to(tl.float32)


@triton.jit
@no_type_check
def scale_of(largest):
    """The scale that maps a token's largest number to float8's."""
    return tl.where(largest > 0, largest * (1 / 448), 1.0)


@triton.jit
@no_type_check
def round_to_float8(x, scale):
    """Numbers of a token over its scale, in float8."""
    return tl.clamp(tl.div_rn(x, scale), -448.0, 448.0).to(tl.float8e4nv)


@triton.jit
@no_type_check
def quantize_body(
    x,
    token_scale,
    channel_scale,
    bias,
    values,
    scale,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,  # channels and what fills them up to a power of two
    UNSCALED: tl.constexpr,
    GELU: tl.constexpr,
):
    token = tl.program_id(0)
    dtype = bias.dtype.element_ty if UNSCALED else x.dtype.element_ty
    row = token.to(tl.int64) * CHANNELS
    channels = tl.arange(0, BLOCK)
    mask = channels < CHANNELS
    loaded = tl.load(x + row + channels, mask=mask, other=0.0, eviction_policy="evict_first")
    value = loaded.to(tl.float32)
    if UNSCALED:
        own = tl.load(token_scale + token)
        value = scale_product(value, own, channel_scale, bias, channels, mask)
    if GELU:
        # x/2 · (1 + tanh u) = x · sigmoid(2u)
        inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
        value = (value * tl.sigmoid(inner)).to(dtype).to(tl.float32)
    own = scale_of(tl.max(tl.abs(value), 0))
    tl.store(values + row + channels, round_to_float8(value, own), mask=mask)
    tl.store(scale + token, own)


def launch(
    x: jax.Array | UnscaledProduct, gelu: bool
) -> tuple[tuple[int, int], list[jax.Array], dict[str, Any]]:
    """Grid, arrays (an absent one replaced by one that is never read) and constants of the kernel,
    for tokens in one axis.
    """
    tokens, channels = x.shape
    if isinstance(x, UnscaledProduct):
        arrays = list(x)
    else:
        arrays = [x, x, x, x]
    constants = dict(
        CHANNELS=channels,
        BLOCK=triton.next_power_of_2(channels),
        UNSCALED=isinstance(x, UnscaledProduct),
        GELU=gelu,
    )
    return (tokens, 1), arrays, constants


def quantize(x: jax.Array | UnscaledProduct, *, gelu: bool = False) -> Quantized:
    """As the plain version, for tokens ``[N, D]``."""
    grid, arrays, constants = launch(x, gelu)
    values, scale = triton_call(
        *arrays,
        kernel=quantize_body,
        name="helios_quantize",
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, FLOAT8),
            jax.ShapeDtypeStruct(x.shape[:1], jnp.float32),
        ],
        grid=grid,
        num_warps=max(1, min(16, constants["BLOCK"] // (32 * ELEMENTS))),
        **constants,
    )
    return Quantized(values, scale)
