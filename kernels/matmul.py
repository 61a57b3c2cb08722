"""Matrix products, of bfloat16 factors and with float32 sums where a CPU has units for that (AMX,
AVX512-BF16).

XLA hands a CPU's product of bfloat16 factors to such units only where its result is float32; a
bfloat16 result it gets by float32 products.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from .dispatch import target


def factor_dtype(dtype: DTypeLike) -> DTypeLike:
    """What factors of ``dtype`` are rounded to before they are multiplied.

    On a CPU, float32 is rounded to bfloat16 where ``jax_default_matmul_precision`` asks for that,
    as JAX's other backends do by themselves.
    """
    narrow = (
        target().platform == "cpu"
        and dtype == jnp.float32
        and jax.config.jax_default_matmul_precision == "bfloat16"
    )
    return jnp.bfloat16 if narrow else dtype


def dot(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    axis_x: int | tuple[int, ...],
    axis_y: int | tuple[int, ...],
) -> Float[Array, "..."]:
    """The sum of products over these axes, factors as :func:`factor_dtype` has them, sums and
    result float32.
    """
    x, y = (factor.astype(factor_dtype(factor.dtype)) for factor in (x, y))
    axes = tuple((axis,) if isinstance(axis, int) else axis for axis in (axis_x, axis_y))
    return jax.lax.dot_general(x, y, (axes, ((), ())), preferred_element_type=jnp.float32)


def product(
    x: Float[Array, "*batch_and_inputs"], kernel: Float[Array, "*inputs_and_features"], inputs: int
) -> Float[Array, "*result"]:
    """``x`` · ``kernel`` over the ``inputs`` last axes of ``x`` and first of ``kernel``, in ``x``'s
    dtype; the kernel is cast to it.
    """
    if target().platform != "cpu" or factor_dtype(x.dtype) != jnp.bfloat16:
        axes = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
        return jnp.tensordot(x, kernel.astype(x.dtype), axes)
    size = math.prod(kernel.shape[:inputs])
    y = _narrow_product(x.reshape(*x.shape[: x.ndim - inputs], size), kernel.reshape(size, -1))
    return y.reshape(*y.shape[:-1], *kernel.shape[inputs:])


@jax.custom_vjp
def _narrow_product(
    x: Float[Array, "*batch i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*batch o"]:
    """A product whose gradients are products of such factors, too; the kernel's has its own dtype."""
    return _dot(x, kernel, x.ndim - 1, 0).astype(x.dtype)


def _forward(x, kernel):
    return _narrow_product(x, kernel), (x, kernel)


def _backward(factors, cotangent):
    x, kernel = factors
    batch = tuple(range(x.ndim - 1))
    return _dot(cotangent, kernel, x.ndim - 1, 1).astype(x.dtype), _dot(
        x, cotangent, batch, batch
    ).astype(kernel.dtype)


def _dot(x, y, axis_x, axis_y):
    return dot(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), axis_x, axis_y)


_narrow_product.defvjp(_forward, _backward)
