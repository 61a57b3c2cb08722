"""Rounding to float8 in Mosaic GPU: a warpgroup takes a few tokens, one after another, each in
registers from its read to its write. The two steps that other kernels share, scales and bias of a
product and the rounding itself, are functions of their own.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from .types import FLOAT8, Quantized, UnscaledProduct

LIMIT = float(jnp.finfo(FLOAT8).max)

TOKENS = 4
"""Most tokens that a warpgroup takes."""

LANES = 256
"""Channels of a row of a token in registers."""


def scale_product(sums, token_scale, channel_scale, bias):
    """A token of a product with its scales and its bias, in float32, rounded to the bias's
    dtype.
    """
    y = (sums * token_scale * channel_scale).astype(bias.dtype).astype(jnp.float32)
    return (y + bias.astype(jnp.float32)).astype(bias.dtype).astype(jnp.float32)


def scale_of(x):
    """The scale that maps a token's largest number to float8's."""
    largest = jnp.max(jnp.abs(x))
    return jnp.where(largest > 0, largest * (1 / LIMIT), 1.0)


def round_to_float8(x, scale):
    """Numbers of a token over its scale, in float8."""
    return jnp.clip(x / scale, -LIMIT, LIMIT).astype(FLOAT8)


def quantize(x: jax.Array | UnscaledProduct, *, gelu: bool = False, interpret=False) -> Quantized:
    """As the plain version, for tokens ``[N, D]`` of a multiple of 256 channels."""
    N, D = x.shape
    dtype = x.dtype
    unscaled = isinstance(x, UnscaledProduct)
    tile = (D // LANES, LANES)
    run = math.gcd(N, TOKENS)
    if isinstance(x, UnscaledProduct):
        weights = (x.channel_scale.reshape(tile), x.bias.reshape(tile))
        arrays = (x.sums.reshape(N, *tile), x.token_scale, *weights)
    else:
        arrays = (x.reshape(N, *tile),)

    def body(*refs):
        *read, values, scales = refs

        @pl.loop(0, run)
        def _(i):
            token = lax.axis_index("program") * run + i
            value = read[0][token].astype(jnp.float32)
            if unscaled:
                value = scale_product(value, read[1][token], read[2][...], read[3][...])
            if gelu:
                # x/2 · (1 + tanh u) = x · sigmoid(2u)
                inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
                value = (value / (1 + jnp.exp(-inner))).astype(dtype).astype(jnp.float32)
            scale = scale_of(value)
            scales[token] = scale
            values[token] = round_to_float8(value, scale)

    values, scale = plgpu.kernel(
        body,
        out_type=(
            jax.ShapeDtypeStruct((N, *tile), FLOAT8),
            jax.ShapeDtypeStruct((N,), jnp.float32),
        ),
        grid=(N // run,),
        grid_names=("program",),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        kernel_name="helios_quantize",
        interpret=interpret,
    )(*arrays)
    return Quantized(values.reshape(N, D), scale)
