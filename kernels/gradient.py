"""Gradients of kernels: the forward pass is the kernel's, the backward pass the plain version's."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def with_plain_gradient(
    kernel: Callable[..., Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
    """``kernel``, differentiated as ``plain`` is.

    The backward pass keeps the arguments only, and computes ``plain`` once more from them.

    Args:
      kernel: takes every array (or tree of arrays, or None) by position and everything static by
        keyword; returns one array or several.
      plain: the same function in plain JAX, with the same arguments.

    Returns:
      A function that is called as ``kernel`` is, differentiable in reverse mode with respect to
      each of its arrays.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(static, arrays):
        return kernel(*arrays, **dict(static))

    def forward(static, arrays):
        return run(static, arrays), arrays

    def backward(static, arrays, cotangents):
        _, pullback = jax.vjp(lambda arrays: plain(*arrays, **dict(static)), arrays)
        return pullback(cotangents)

    run.defvjp(forward, backward)

    @functools.wraps(kernel)
    def differentiable(*arrays, **static):
        return run(tuple(static.items()), arrays)

    return differentiable
