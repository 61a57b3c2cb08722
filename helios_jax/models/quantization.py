"""Eight-bit weights: a kernel in int8 or float8 with one float32 scale an output channel, and
matrix products with them.

With ``x · W`` in full precision and ``W ≈ Q · diag(s)``, the product is ``(x · Q) · diag(s)``: in
the activations' dtype, or, where activations are rounded to eight bits too, ``x ≈ diag(r) · P``
with one scale a token, ``diag(r) · (P · Q) · diag(s)``, whose inner product is of eight-bit
numbers.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp

from helios_jax.types import Array, DTypeLike, Float, Params

Quantization = Literal["int8", "fp8"]
DTYPES = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
QUANTIZED = {
    "attn1/qkv": 1,
    "attn1/out": 2,
    "attn2/q": 1,
    "attn2/kv": 1,
    "attn2/out": 2,
    "ffn/up": 1,
    "ffn/down": 1,
}
"""The kernels of a block that are quantized, with the number of axes that are contracted: nearly
all of the transformer's bytes.
"""


def quantize_transformer(params: Params, quantization: Quantization) -> Params:
    """The transformer's parameters with eight-bit kernels in its blocks, ``kernel_scale`` beside
    each; everything else is as it was.

    Kernels are held in both forms until the caller lets ``params`` go. What was in host memory is
    there again.

    Args:
      params: of the transformer.
      quantization: "int8", or "fp8" for float8 e4m3.
    """
    blocks = {
        name: dict(part) if isinstance(part, dict) else part
        for name, part in params["blocks"].items()
    }
    for path, inputs in QUANTIZED.items():
        part, name = path.split("/")
        layer = blocks[part][name]
        kernel, scale = _quantize_kernel(layer["kernel"], inputs, quantization)
        kernel = jax.device_put(kernel, jax.typeof(layer["kernel"]).memory_space)
        blocks[part][name] = {**layer, "kernel": kernel, "kernel_scale": scale}
    return {**params, "blocks": blocks}


@jax.jit(static_argnums=(1, 2))
def _quantize_kernel(
    kernel: Float[Array, "L *inputs_and_features"], inputs: int, quantization: Quantization
) -> tuple[Array, Array]:
    """Each layer's kernel rounded to eight bits, and its scales [L, *features]."""
    on_device = functools.partial(jax.device_put, device=jax.memory.Space.Device)
    return jax.lax.map(
        lambda kernel: round_to_8_bits(
            on_device(kernel), tuple(range(inputs)), DTYPES[quantization]
        ),
        kernel,
    )


def round_to_8_bits(
    x: Float[Array, "..."], axes: tuple[int, ...], dtype: DTypeLike
) -> tuple[Array, Float[Array, "..."]]:
    """``x ≈ rounded · scale`` with one scale for all numbers along ``axes``, so that the largest of
    them is the largest the dtype holds.
    """
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True).astype(jnp.float32)
    limit = float(
        jnp.finfo(dtype).max if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max
    )
    scale = jnp.where(largest > 0, largest / limit, 1.0)
    scaled = x.astype(jnp.float32) / scale
    rounded = scaled if jnp.issubdtype(dtype, jnp.floating) else jnp.round(scaled)
    return jnp.clip(rounded, -limit, limit).astype(dtype), scale.squeeze(axes)


def quantized_product(
    x: Float[Array, "*batch_and_inputs"],
    kernel: Array,
    scale: Float[Array, "*features"],
    inputs: int,
    round_activations: bool,
) -> Float[Array, "*batch_and_features"]:
    """``x`` times a quantized kernel over the last ``inputs`` axes of ``x`` and the first of
    ``kernel``; float32.
    """
    batch, features = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    x, kernel = x.reshape(*batch, -1), kernel.reshape(-1, math.prod(features))
    by_token = 1.0
    if round_activations:
        x, by_token = round_to_8_bits(x, (-1,), kernel.dtype)
        by_token = by_token[..., None]
    sums = jnp.int32 if x.dtype == jnp.int8 else jnp.float32
    y = jnp.tensordot(x, kernel.astype(x.dtype), 1, preferred_element_type=sums).astype(jnp.float32)
    return (y * by_token).reshape(*batch, *features) * scale.reshape(
        (1,) * len(batch) + scale.shape
    )
