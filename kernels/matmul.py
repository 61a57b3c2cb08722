"""Matrix products of bfloat16 operands with float32 sums, for CPUs with units for that (AMX,
AVX512-BF16).

XLA uses these units on a CPU only if the result is float32; for a bfloat16 result it multiplies in
float32.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from .dispatch import target


def operand_dtype(dtype: DTypeLike) -> DTypeLike:
    """The dtype that operands of ``dtype`` are rounded to before they are multiplied.

    On a CPU, float32 is rounded to bfloat16 where ``jax_default_matmul_precision`` asks for that;
    JAX's other backends do so by themselves.
    """
    precision = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]
    round_float32 = target().platform == "cpu" and precision == "bfloat16"
    return jnp.bfloat16 if round_float32 and dtype == jnp.float32 else dtype


def dot(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    axis_x: int | tuple[int, ...],
    axis_y: int | tuple[int, ...],
) -> Float[Array, "..."]:
    """The sum of products over these axes: operands rounded to :func:`operand_dtype`, sums and
    result float32.
    """
    x = x.astype(operand_dtype(x.dtype))
    y = y.astype(operand_dtype(y.dtype))
    axes_x = (axis_x,) if isinstance(axis_x, int) else axis_x
    axes_y = (axis_y,) if isinstance(axis_y, int) else axis_y
    dimensions = ((axes_x, axes_y), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def matmul(
    x: Float[Array, "*batch_and_inputs"], kernel: Float[Array, "*inputs_and_features"], inputs: int
) -> Float[Array, "*result"]:
    """``x · kernel``, contracting the last ``inputs`` axes of ``x`` with the first of ``kernel``.

    The kernel is cast to ``x``'s dtype, which is the result's, too.
    """
    if target().platform != "cpu" or operand_dtype(x.dtype) != jnp.bfloat16:
        axes = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
        return jnp.tensordot(x, kernel.astype(x.dtype), axes)
    size = math.prod(kernel.shape[:inputs])
    y = _bfloat16_matmul(x.reshape(*x.shape[: x.ndim - inputs], size), kernel.reshape(size, -1))
    return y.reshape(*y.shape[:-1], *kernel.shape[inputs:])


@jax.custom_vjp
def _bfloat16_matmul(
    x: Float[Array, "*batch i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*batch o"]:
    """A product of bfloat16 operands, and so are its gradients; the kernel's has its own dtype."""
    return _bfloat16_dot(x, kernel, x.ndim - 1, 0).astype(x.dtype)


def _forward(x, kernel):
    return _bfloat16_matmul(x, kernel), (x, kernel)


def _backward(operands, cotangent):
    x, kernel = operands
    batch = tuple(range(x.ndim - 1))
    d_x = _bfloat16_dot(cotangent, kernel, x.ndim - 1, 1)
    d_kernel = _bfloat16_dot(x, cotangent, batch, batch)
    return d_x.astype(x.dtype), d_kernel.astype(kernel.dtype)


def _bfloat16_dot(x, y, axis_x, axis_y):
    return dot(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), axis_x, axis_y)


_bfloat16_matmul.defvjp(_forward, _backward)
