"""Every compiled kernel, forward and backward, against its reference in float32, at the shapes of
the released model.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from helios_jax.kernels import attention, gated_residual, modulated_norm, norm, norm_rope
from helios_jax.kernels.attention.reference import attention as plain_attention
from helios_jax.kernels.gated_residual import reference as plain_residual
from helios_jax.kernels.modulated_norm.reference import modulated_layer_norm
from helios_jax.kernels.norm import reference as plain_norm
from helios_jax.kernels.norm_rope.reference import norm_rope as plain_norm_rope

D, K, d, HISTORY = 5120, 40, 128, 2400
TOKENS = [2940, 4560, 11040]
DTYPES = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-20}
"""Half a unit in the last place relative to a number; float32 is summed in another order."""


def draw(seed, *shape, dtype=jnp.float32, around=0.0):
    return (around + jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


def cases(tokens, dtype):
    """By name: the operation, its reference, its arrays, its static arguments."""
    x, y = draw(0, 1, tokens, D, dtype=dtype), draw(1, 1, tokens, D, dtype=dtype)
    noisy = y[:, HISTORY:]
    pair = lambda seed: draw(seed, 1, 2, D)
    weight, bias = draw(5, D, around=1.0), draw(6, D)
    angles = draw(7, tokens, d // 2)
    segments, fine = dict(history=HISTORY), dict(eps=1e-6)
    qkv, gain = draw(8, 1, tokens, 3, K, d, dtype=dtype), draw(9, K, around=5.0)
    return {
        "modulated layer norm": (
            modulated_norm.modulated_layer_norm,
            modulated_layer_norm,
            (x, pair(2), pair(3)),
            segments | fine,
        ),
        "layer norm": (norm.layer_norm, plain_norm.layer_norm, (x, weight, bias), fine),
        "RMS norm": (norm.rms_norm, plain_norm.rms_norm, (x, weight), fine),
        "gated residual": (
            gated_residual.gated_residual,
            plain_residual.gated_residual,
            (x, y, pair(4)),
            segments,
        ),
        "residual of noisy tokens + norm": (
            gated_residual.gated_residual_norm,
            plain_residual.gated_residual_norm,
            (x, noisy, None, pair(2), pair(3)),
            segments | fine | dict(norm_history=True),
        ),
        "gated residual + norm of noisy tokens": (
            gated_residual.gated_residual_norm,
            plain_residual.gated_residual_norm,
            (x, y, pair(4), weight[None, None], bias[None, None]),
            segments | fine | dict(norm_history=False),
        ),
        "q, k norm + rotary": (
            norm_rope.norm_rope,
            plain_norm_rope,
            (qkv, weight, weight, jnp.cos(angles), jnp.sin(angles), gain),
            segments | fine,
        ),
    }


CASES = list(
    jax.eval_shape(lambda: {name: jnp.zeros(()) for name in cases(HISTORY + 1, jnp.float32)})
)


def in_float32(arrays):
    return jax.tree.map(lambda x: x.astype(jnp.float32), arrays)


def error(ours, exact):
    """Largest deviation, each number's relative to its own size or to the deviation of all,
    whichever is larger.
    """

    def worst(ours, exact):
        ours, exact = ours.astype(jnp.float32), exact.astype(jnp.float32)
        return float(jnp.max(jnp.abs(ours - exact) / jnp.maximum(jnp.abs(exact), exact.std())))

    return max(jax.tree.leaves(jax.tree.map(worst, ours, exact)))


@pytest.mark.parametrize("implementation", ["triton", "pallas"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", CASES)
def test_row_kernels(name, tokens, dtype, implementation):
    """Each result within the reference's own few roundings of the reference in float32, and each
    gradient within a few more.
    """
    if (name, dtype, implementation) == ("q, k norm + rotary", "float32", "pallas"):
        return  # refuses: a pair would be eight bytes
    fn, reference, arrays, static = cases(tokens, jnp.dtype(dtype))[name]
    run = jax.jit(functools.partial(fn, implementation=implementation, **static))
    plain = functools.partial(reference, **static)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(plain)(*in_float32(arrays))
        ours = run(*arrays)
        assert error(ours, exact) <= 8 * DTYPES[dtype]

        def gradients(fn, arrays, cotangents):
            _, pull = jax.vjp(fn, *arrays)
            return pull(cotangents)

        cotangents = jax.tree.map(lambda y: draw(10, *y.shape, dtype=y.dtype), ours)
        exact = jax.jit(functools.partial(gradients, plain))(
            in_float32(arrays), in_float32(cotangents)
        )
        ours = jax.jit(functools.partial(gradients, run))(arrays, cotangents)
        assert error(ours, exact) <= 16 * DTYPES[dtype]


@pytest.mark.parametrize("implementation", ["cudnn", "pallas"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("queries", "keys", "biased"),
    [(2940, 2940, False), (4560, 4560, False), (1111, 11040, False), (8640, 128, True)],
)
def test_attention(queries, keys, biased, dtype, implementation):
    """Attended values, and gradients, within the rounding of the weights; the reference takes four
    heads, whose logits fit in memory.
    """
    query, key, value = (
        draw(seed, 1, tokens, 4, d, dtype=dtype)
        for seed, tokens in enumerate((queries, keys, keys))
    )
    bias = attention.padding_bias(jnp.array([70]), keys, 512) if biased else None
    run = jax.jit(functools.partial(attention.attention, implementation=implementation))
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(plain_attention)(*in_float32((query, key, value)), bias)
        ours = run(query, key, value, bias)
        assert error(ours, exact) <= 8 * DTYPES[dtype]
        loss = lambda fn: jax.jit(
            jax.grad(
                lambda q, k, v: jnp.sin(fn(q, k, v, bias).astype(jnp.float32)).sum(),
                argnums=(0, 1, 2),
            )
        )
        assert (
            error(
                loss(run)(query, key, value),
                loss(plain_attention)(*in_float32((query, key, value))),
            )
            <= 32 * DTYPES[dtype]
        )
