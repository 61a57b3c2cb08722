"""Rows of benchmarks/gpu.py of single operations: copies and products, kernels by implementation,
attention, convolutions.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from gpu_rows import Row, Size, array, drawn, queued

from helios_jax.kernels import channel_norm, norm_rope, quantize, residual_norm
from helios_jax.kernels.attention import attention
from helios_jax.kernels.quantize import FLOAT8, UnscaledProduct
from helios_jax.models.convolution import (
    conv3d,
    convolve,
    frames_as_channels,
    tap_by_tap,
    upsample_convolve,
)


def device_rows(size: Size) -> Iterator[Row]:
    """What the others are compared with: a copy, and the model's widest product in both dtypes."""
    elements = 2**16 if size.is_toy else 2**29
    copy = jax.jit(lambda x: x + jnp.bfloat16(1))
    draw = functools.partial(drawn, (array(elements),))
    yield Row("copy", functools.partial(queued, copy, draw, 10), ("GB/s", 4 * elements), "copy")
    cfg = size.config.transformer
    tokens = size.history + size.noisy[-1]
    amount = ("TFLOP/s", 2 * tokens * cfg.width * cfg.ffn_dim)
    draw = functools.partial(drawn, (array(tokens, cfg.width), array(cfg.width, cfg.ffn_dim)))
    product = functools.partial(queued, jax.jit(jnp.dot), draw, 10)
    yield Row("matmul", product, amount, "matmul")
    operands = (
        array(tokens, cfg.width, dtype=FLOAT8),
        array(cfg.ffn_dim, cfg.width, dtype=FLOAT8),
    )
    run = jax.jit(lambda x, y: jnp.tensordot(x, y, (1, 1), preferred_element_type=jnp.bfloat16))
    product = functools.partial(queued, run, functools.partial(drawn, operands), 10)
    yield Row("matmul of float8", product, amount, "matmul_8bit")


def kernel_rows(size: Size) -> Iterator[Row]:
    """Each fused operation by each implementation that serves here, at the last stage's tokens."""
    calls = 2 if size.is_toy else 60
    for name, (fn, shapes) in operations(size).items():
        results = jax.eval_shape(fn, *shapes)
        leaves = jax.tree.leaves((shapes, results))
        moved = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        runs = {"reference": functools.partial(fn, implementation="xla")}
        for implementation in ("xla", "triton", "pallas"):
            runs[implementation] = jax.jit(functools.partial(fn, implementation=implementation))
        for implementation, run in runs.items():
            make = functools.partial(queued, run, functools.partial(drawn, shapes, 3), calls)
            # One operation after another is not what a prediction is of.
            assumed = None if implementation == "reference" else "copy"
            yield Row(f"kernel {name}, {implementation}", make, ("GB/s", moved), assumed)


def operations(size: Size) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The fused operations by name, and the shapes of their arrays."""
    cfg = size.config.transformer
    h = size.history
    N = h + size.noisy[-1]
    D = cfg.width
    F = cfg.ffn_dim
    K = cfg.num_attention_heads
    d = cfg.attention_head_dim
    x = array(1, N, D)
    row = array(D)
    pair = array(1, 2, D, dtype=jnp.float32)
    angles = array(N, d // 2, dtype=jnp.float32)
    per_token = array(1, N, dtype=jnp.float32)
    product = UnscaledProduct(x, per_token, array(D, dtype=jnp.float32), row)
    inner = UnscaledProduct(array(1, N, F), per_token, array(F, dtype=jnp.float32), array(F))
    C = size.config.vae.base_dim
    frames, past = (array(1, count, size.height, size.width, C) for count in (12, 2))
    norm = dict(eps=1e-6)
    both = dict(history=h, eps=1e-6)
    gated_residual_norm = functools.partial(
        residual_norm.gated_residual_norm, history=h, norm=residual_norm.Norm(eps=1e-6)
    )
    return {
        "modulated layer norm": (
            functools.partial(residual_norm.modulated_layer_norm, **both),
            (x, pair, pair),
        ),
        "layer norm": (functools.partial(residual_norm.layer_norm, **norm), (x, row, row)),
        "RMS norm": (functools.partial(residual_norm.rms_norm, **norm), (x, row)),
        "gated residual": (
            functools.partial(residual_norm.gated_residual, history=h),
            (x, x, pair),
        ),
        "gated residual + norm": (
            gated_residual_norm,
            (x, x, pair, (pair, pair)),
        ),
        "gated residual of a product + float8 norm": (
            functools.partial(gated_residual_norm, quantized=True),
            (x, product, pair, (pair, pair)),
        ),
        "float8": (quantize.quantize, (x,)),
        "GELU of a product + float8": (functools.partial(quantize.quantize, gelu=True), (inner,)),
        "q, k norm + rotary": (
            functools.partial(norm_rope.norm_rope, **both),
            (array(1, N, 3, K, d), (row, row), (angles, angles)),
        ),
        "norm of the VAE's channels + SiLU": (
            functools.partial(channel_norm.channel_norm, silu=True, reach=2, keep=True),
            (frames, array(C), past),
        ),
    }


def attention_rows(size: Size) -> Iterator[Row]:
    """Self-attention at each stage, and attention to the text."""
    cfg = size.config.transformer
    K = cfg.num_attention_heads
    d = cfg.attention_head_dim
    S = 128
    cases = {}
    for n in size.noisy:
        tokens = size.history + n
        cases[f"self, {tokens} tokens"] = (tokens, tokens, None)
    bias = array(1, S, dtype=jnp.float32)
    cases[f"text, {size.noisy[-1]} tokens on {S}"] = (size.noisy[-1], S, bias)
    for kind, (rows, columns, bias) in cases.items():
        queries, keys = array(1, rows, K, d), array(1, columns, K, d)
        amount = ("TFLOP/s", 4 * rows * columns * K * d)
        for implementation in ("xla",) if size.is_toy else ("cudnn", "pallas"):
            run = jax.jit(functools.partial(attention, implementation=implementation))
            draw = functools.partial(drawn, (queries, keys, keys, bias))
            make = functools.partial(queued, run, draw, 10)
            yield Row(f"attention {kind}, {implementation}", make, amount, "attention")


def convolution_rows(size: Size) -> Iterator[Row]:
    """The VAE's widest convolution in each form, and its last upsampling in both.

    They run over the frames of three latent frames.
    """
    frames = 12
    C = size.config.vae.base_dim
    calls = 1 if size.is_toy else 5
    given = dict(strides=(1, 1, 1), padding=((1, 1), (1, 1)))
    shapes = (array(1, frames + 2, size.height, size.width, C), array(3, 3, 3, C, C))
    draw = functools.partial(drawn, shapes)
    amount = ("TFLOP/s", 2 * 27 * C * C * frames * size.height * size.width)
    for form in (conv3d, tap_by_tap, frames_as_channels):
        run = jax.jit(functools.partial(form, **given))
        make = functools.partial(queued, run, draw, calls)
        yield Row(f"convolution 3 x 3 x 3, {form.__name__}", make, amount, "convolution")
    halved = array(1, frames, size.height // 2, size.width // 2, 2 * C)
    draw = functools.partial(drawn, (halved, array(1, 3, 3, 2 * C, C), array(C)))

    def repeated(x, kernel, bias):
        repeated = x.repeat(2, axis=2).repeat(2, axis=3)
        return convolve(repeated, kernel, bias, padding=((1, 1), (1, 1)))

    amount = ("TFLOP/s", 2 * 9 * 2 * C * C * frames * size.height * size.width)
    for name, form in {"phases": upsample_convolve, "repetition": repeated}.items():
        make = functools.partial(queued, jax.jit(form), draw, calls)
        yield Row(f"convolution after upsampling, {name}", make, amount, "convolution")
