"""Products of bfloat16 operands on a CPU: operands are rounded, sums are not, and the same holds
for gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.kernels.matmul import dot, matmul, operand_dtype


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rounded(x):
    return np.asarray(x.astype(jnp.bfloat16)).astype(np.float64)


def test_float32_stays_float32_unless_asked():
    """The default is exact; JAX's setting that asks for bfloat16 products holds on CPUs, too."""
    assert operand_dtype(jnp.float32) == jnp.float32
    assert operand_dtype(jnp.bfloat16) == jnp.bfloat16
    with jax.default_matmul_precision("bfloat16"):
        assert operand_dtype(jnp.float32) == jnp.bfloat16
    with jax.default_matmul_precision("highest"):
        assert operand_dtype(jnp.float32) == jnp.float32
    x = normal(0, 3, 5, 24)
    kernel = normal(1, 24, 2, 8)
    np.testing.assert_array_equal(matmul(x, kernel, 1), jnp.tensordot(x, kernel, 1))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64])
def test_other_dtypes_are_left_alone(dtype):
    """Half precision has more digits than bfloat16, and double precision is for those who want all
    of them.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"):
        x = normal(0, 6, 24).astype(dtype)
        kernel = normal(1, 24, 8).astype(dtype)
        found = matmul(x, kernel, 1)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, jnp.tensordot(x, kernel, 1))


@pytest.mark.parametrize("inputs", [1, 2])
def test_operands_are_rounded_and_nothing_else(inputs):
    """Result and both gradients are those of rounded operands, to float32's precision: sums are not
    rounded on the way.
    """
    x = normal(0, 3, 5, 4, 24)
    kernel = normal(1, *(4, 24)[2 - inputs :], 2, 8)
    cotangent = normal(2, *x.shape[: 4 - inputs], 2, 8)
    with jax.default_matmul_precision("bfloat16"):
        result, pullback = jax.vjp(lambda x, kernel: matmul(x, kernel, inputs), x, kernel)
        found = result, *pullback(cotangent)
    exact = np.tensordot(rounded(x), rounded(kernel), inputs)
    g = rounded(cotangent)
    features = tuple(range(g.ndim - 2, g.ndim)), tuple(range(inputs, inputs + 2))
    batch = tuple(range(4 - inputs))
    wanted = (
        exact,
        np.tensordot(g, rounded(kernel), features),
        np.tensordot(rounded(x), g, (batch, batch)),
    )
    for value, want in zip(found, wanted):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())
    # The bound above cannot be met by operands that are not rounded.
    unrounded = np.tensordot(x, kernel, inputs)
    assert np.abs(unrounded - exact).max() > 1e-3 * np.abs(exact).max()


def test_bfloat16_arrays_have_bfloat16_results_and_the_kernel_its_own_gradient():
    """Activations keep their dtype; a float32 kernel's gradient is not rounded to theirs."""
    x = normal(0, 6, 24).astype(jnp.bfloat16)
    kernel = normal(1, 24, 8)
    result, pullback = jax.vjp(lambda x, kernel: matmul(x, kernel, 1), x, kernel)
    d_x, d_kernel = pullback(jnp.ones_like(result))
    assert (result.dtype, d_x.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(
        d_kernel, np.repeat(rounded(x).sum(0)[:, None], 8, 1), rtol=1e-6, atol=1e-5
    )


def test_dot_sums_in_float32():
    """4,096 ones are 4,096: a bfloat16 sum would stop at 256."""
    ones = jnp.ones((1, 4096), jnp.bfloat16)
    assert float(dot(ones, ones, 1, 1)[0, 0]) == 4096
