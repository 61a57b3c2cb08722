"""The fused kernel as a differentiable function, whose backward pass is a kernel, too.

With d_s the gradient of the sum s = x + gate · y, through the norm n of s and beside it:

    d_n = d_normed · scale
    d_s = d_added + (d_n - mean(d_n) - n mean(d_n n)) / √(variance + eps)      (layer norm)
    d_x = d_s,  d_y = gate · d_s

An RMS norm takes no mean. Gradients of the weights are sums over the tokens of a segment: of y d_s,
n d_normed and d_normed.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..batch import on_each_device
from .fusion import Fusion

Arrays = tuple[Any, Any, Any, Any, Any]
"""``x``, ``y``, ``gate``, ``scale`` and ``shift``, as :mod:`.fusion` says."""

Gradients = tuple[Array | None, Array | None, tuple[Array | None, ...]]
"""Of ``x``; of ``y``, where there is a gate; and float32 sums ``[B, 2, D]`` for gate, scale and
shift. None for what is not there.
"""


def differentiable(module: str) -> Callable[..., tuple[Array | None, Array | None]]:
    """``residual_norm`` of a module of this folder.

    The backward pass keeps the arguments only, from which its kernel computes the norm once more.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
    def residual_norm(x, y, gate, scale, shift, fusion):
        # Imported when it is run: a CPU needs neither Triton nor Pallas.
        kernel = importlib.import_module(f".{module}", __package__).residual_norm
        return on_each_device(lambda *arrays: kernel(*arrays, fusion), x, y, gate, scale, shift)

    def forward(x, y, gate, scale, shift, fusion):
        return residual_norm(x, y, gate, scale, shift, fusion), (x, y, gate, scale, shift)

    def backward(fusion, arrays, gradients):
        kernel = importlib.import_module(f".{module}_backward", __package__).residual_norm_backward
        return _backward(kernel, arrays, gradients, fusion)

    residual_norm.defvjp(forward, backward)
    return residual_norm


def _backward(
    kernel: Callable[..., Any], arrays: Arrays, gradients: tuple[Any, Any], fusion: Fusion
) -> tuple[Array | None, ...]:
    """The gradients of the five arrays, of which the kernel computes those that are neither equal
    nor sums.
    """
    x, y, *weights = arrays
    d_x, _ = gradients
    d_y = None
    sums = (None, None, None)
    if fusion.norm or weights[0] is not None:
        d_x, d_y, sums = on_each_device(
            lambda *args: kernel(args[:5], args[5:], fusion), *arrays, *gradients
        )
    if y is not None and weights[0] is None:
        d_y = d_x[:, x.shape[1] - y.shape[1] :]
    return d_x, d_y, *map(_like, sums, weights)


def _like(
    sums: Float[Array, "B 2 D"] | None, weight: Float[Array, "#B #2 D"] | None
) -> Float[Array, "#B #2 D"] | None:
    """The gradient of a weight that samples or segments may share."""
    if sums is None or weight is None:
        return None
    shared = tuple(axis for axis in (0, 1) if weight.shape[axis] == 1)
    return sums.sum(shared, keepdims=True).astype(weight.dtype)


def segment_sums(sums: Float[Array, "B programs D"], before: int) -> Float[Array, "B 2 D"]:
    """The sums of programs, of which the first ``before`` have history tokens, by segment."""
    return jnp.stack([sums[:, :before].sum(1), sums[:, before:].sum(1)], axis=1)
