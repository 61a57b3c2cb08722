"""Gradients of kernels: the forward pass is the kernel's, the backward pass that of the plain
reference.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax


def with_reference_gradient(
    kernel: Callable[..., Any], reference: Callable[..., Any]
) -> Callable[..., Any]:
    """``kernel``, differentiated as ``reference`` is.

    Only the arguments are kept for the backward pass, which computes ``reference`` once more from
    them.

    Args:
      kernel: takes positionally every array (or tree of arrays, or None) and by keyword everything
        static; returns one array or several.
      reference: the same function in plain JAX, with the same arguments.

    Returns:
      A function called as ``kernel`` is, differentiable in reverse with respect to each of its
      arrays.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(static, arrays):
        return kernel(*arrays, **dict(static))

    def forward(static, arrays):
        return run(static, arrays), arrays

    def backward(static, arrays, cotangents):
        _, pullback = jax.vjp(lambda arrays: reference(*arrays, **dict(static)), arrays)
        return pullback(cotangents)

    run.defvjp(forward, backward)

    @functools.wraps(kernel)
    def differentiable(*arrays, **static):
        return run(tuple(static.items()), arrays)

    return differentiable
