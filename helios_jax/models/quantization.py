"""Eight-bit weights: kernels in int8 or float8 with one float32 scale for each output channel, and
matrix products with them.

With ``W ≈ Q · diag(s)``, the product ``x · W`` is ``(x · Q) · diag(s)`` in the activations' dtype.
Where activations are rounded to eight bits, too, ``x ≈ diag(r) · P`` with one scale a token, it is
``diag(r) · (P · Q) · diag(s)``, whose inner product is of eight-bit numbers. Of float8, the kernel
before rounds the activations and the kernel after applies the scales
(:mod:`~helios_jax.kernels.quantize`).

A float8 kernel is stored with its outputs first: a GPU's float8 products want the contracted axis
last, and XLA would turn every kernel around in each program, and keep the copies: 12 GB of the 14B
model.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from helios_jax.kernels.dispatch import target
from helios_jax.kernels.quantize import Quantized, UnscaledProduct, round_to_8_bits
from helios_jax.models.layer_stack import is_separate_leaf
from helios_jax.types import Array, Float, Params

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
"""The kernels of a block that are quantized, nearly all of the transformer's bytes, and how many of
their axes are contracted.
"""


def quantize_transformer(params: Params, quantization: Quantization) -> Params:
    """The transformer's parameters with eight-bit kernels in its blocks, each with a
    ``kernel_scale`` beside it.

    Kernels exist in both forms until the caller drops ``params``. Those in host memory stay there.

    Args:
      params: of the transformer.
      quantization: "int8", or "fp8" for float8 e4m3.
    """
    blocks = {}
    for name, part in params["blocks"].items():
        blocks[name] = dict(part) if isinstance(part, dict) else part
    for path, inputs in QUANTIZED.items():
        part, name = path.split("/")
        layer = blocks[part][name]
        kernel = layer["kernel"]
        if is_separate_leaf(kernel):
            pairs = [_quantize_layer(one, inputs, quantization) for one in kernel]
            kernel, scale = zip(*pairs)
        else:
            space = jax.typeof(kernel).memory_space
            kernel, scale = _quantize_kernel(kernel, inputs, quantization)
            kernel = jax.device_put(kernel, space)
        blocks[part][name] = {**layer, "kernel": kernel, "kernel_scale": scale}
    return {**params, "blocks": blocks}


@jax.jit(static_argnums=(1, 2))
def _quantize_kernel(
    kernel: Float[Array, "L *inputs_and_features"], inputs: int, quantization: Quantization
) -> tuple[Array, Array]:
    """Each layer's kernel rounded to eight bits, and its scales [L, *features]."""

    def quantize(kernel):
        kernel = jax.device_put(kernel, jax.memory.Space.Device)
        return _quantize_layer(kernel, inputs, quantization)

    return jax.lax.map(quantize, kernel)


@jax.jit(static_argnums=(1, 2))
def _quantize_layer(
    kernel: Float[Array, "*inputs_and_features"], inputs: int, quantization: Quantization
) -> tuple[Array, Array]:
    """One layer's kernel rounded to eight bits, and its scales [*features]."""
    rounded, scale = round_to_8_bits(kernel, tuple(range(inputs)), DTYPES[quantization])
    return outputs_first(rounded, inputs), scale


def outputs_first(kernel: Array, inputs: int) -> Array:
    """A rounded kernel as it is stored: float8 with its outputs before its ``inputs`` axes."""
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        return kernel
    return jnp.moveaxis(kernel, range(inputs), range(-inputs, 0))


def is_float8(kernel: Array) -> bool:
    """Whether a kernel is of eight-bit floats, and so stands with its outputs first."""
    return jnp.issubdtype(kernel.dtype, jnp.floating) and kernel.dtype.itemsize == 1


def float8_matmul(
    x: Quantized,
    kernel: Float[Array, "*features_and_inputs"],
    scale: Float[Array, "*features"],
    bias: Float[Array, "*features"],
) -> UnscaledProduct:
    """``x · kernel``, contracting the last axis of ``x`` with the last ones of ``kernel``; scales
    and bias are left to whoever reads it.

    The sums are stored in the bias's dtype on a GPU, half the bytes of float32. They are rounded
    once more than on a CPU, a hundredth of what three bits of mantissa round.
    """
    size = x.values.shape[-1]
    sums = bias.dtype if target().platform == "cuda" else jnp.float32
    contracted = (x.values.ndim - 1, 1)
    y = jnp.tensordot(x.values, kernel.reshape(-1, size), contracted, preferred_element_type=sums)
    return UnscaledProduct(y.reshape(*x.scale.shape, *scale.shape), x.scale, scale, bias)


def quantized_matmul(
    x: Float[Array, "*batch_and_inputs"],
    kernel: Array,
    scale: Float[Array, "*features"],
    inputs: int,
    round_activations: bool,
) -> Float[Array, "*batch_and_features"]:
    """``x · kernel · scale``, contracting the last ``inputs`` axes of ``x`` with those of
    ``kernel``, which is as :func:`outputs_first` says; float32.

    Activations are rounded for an int8 kernel only: for float8 there is :func:`float8_matmul`.
    """
    batch = x.shape[: x.ndim - inputs]
    x = x.reshape(*batch, -1)
    size = x.shape[-1]
    outputs_last = not is_float8(kernel)
    kernel = kernel.reshape(size, -1) if outputs_last else kernel.reshape(-1, size)
    token_scale = 1.0
    sums = jnp.float32
    if round_activations:
        x, token_scale = round_to_8_bits(x, (-1,), kernel.dtype)
        token_scale = token_scale[..., None]
        sums = jnp.int32
    contracted = (x.ndim - 1, 0 if outputs_last else 1)
    y = jnp.tensordot(x, kernel.astype(x.dtype), contracted, preferred_element_type=sums)
    y = (y.astype(jnp.float32) * token_scale).reshape(*batch, *scale.shape)
    return y * scale.reshape((1,) * len(batch) + scale.shape)
