"""Every compiled kernel, forward and backward, against its plain version in float32, at the shapes
of the released model.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from helios_jax.kernels import attention, channel_norm, norm_rope, residual_norm
from helios_jax.kernels.attention.reference import attention as plain_attention
from helios_jax.kernels.channel_norm.reference import channel_norm as plain_channel_norm
from helios_jax.kernels.channel_norm.shapes import SHAPES as CLIPS
from helios_jax.kernels.norm_rope.reference import norm_rope as plain_norm_rope
from helios_jax.kernels.residual_norm import Norm
from helios_jax.kernels.residual_norm import reference as plain

D, K, d = 5120, 40, 128
HISTORY = 2400
TOKENS = [2940, 4560, 11040]
DTYPES = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-20}
"""Half a unit in the last place relative to a number; float32 is summed in another order."""


def draw(seed, *shape, dtype=jnp.float32, around=0.0):
    return (around + jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


def cases(tokens, dtype):
    """By name: the operation, its plain version, its arrays, its static arguments."""
    x = draw(0, 1, tokens, D, dtype=dtype)
    y = draw(1, 1, tokens, D, dtype=dtype)
    noisy = y[:, HISTORY:]
    shift, scale, gate = (draw(seed, 1, 2, D) for seed in (2, 3, 4))
    weight = draw(5, D, around=1.0)
    bias = draw(6, D)
    angles = draw(7, tokens, d // 2)
    rope = (jnp.cos(angles), jnp.sin(angles))
    qkv = draw(8, 1, tokens, 3, K, d, dtype=dtype)
    gain = draw(9, K, around=5.0)
    norm = dict(eps=1e-6)
    segments = dict(history=HISTORY)
    return {
        "modulated layer norm": (
            residual_norm.modulated_layer_norm,
            plain.modulated_layer_norm,
            (x, shift, scale),
            segments | norm,
        ),
        "layer norm": (residual_norm.layer_norm, plain.layer_norm, (x, weight, bias), norm),
        "RMS norm": (residual_norm.rms_norm, plain.rms_norm, (x, weight), norm),
        "gated residual": (
            residual_norm.gated_residual,
            plain.gated_residual,
            (x, y, gate),
            segments,
        ),
        "residual of noisy tokens + norm": (
            residual_norm.gated_residual_norm,
            plain.gated_residual_norm,
            (x, noisy, None, (scale, shift)),
            segments | dict(norm=Norm(eps=1e-6)),
        ),
        "gated residual + norm of noisy tokens": (
            residual_norm.gated_residual_norm,
            plain.gated_residual_norm,
            (x, y, gate, (weight[None, None], bias[None, None])),
            segments | dict(norm=Norm(eps=1e-6, noisy_only=True)),
        ),
        "q, k norm + rotary": (
            norm_rope.norm_rope,
            plain_norm_rope,
            (qkv, (weight, weight), rope, gain),
            segments | norm,
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
        ours = ours.astype(jnp.float32)
        exact = exact.astype(jnp.float32)
        return float(jnp.max(jnp.abs(ours - exact) / jnp.maximum(jnp.abs(exact), exact.std())))

    return max(jax.tree.leaves(jax.tree.map(worst, ours, exact)))


@pytest.mark.parametrize("implementation", ["triton", "pallas"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", CASES)
def test_fused_kernels(name, tokens, dtype, implementation):
    """Results are within a few roundings of the plain version in float32, gradients within a few
    more.
    """
    if (name, dtype, implementation) == ("q, k norm + rotary", "float32", "pallas"):
        return  # refuses: a pair would be eight bytes
    operation, plain_version, arrays, static = cases(tokens, jnp.dtype(dtype))[name]
    run = jax.jit(functools.partial(operation, implementation=implementation, **static))
    run_plain = functools.partial(plain_version, **static)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(run_plain)(*in_float32(arrays))
        ours = run(*arrays)
        assert error(ours, exact) <= 8 * DTYPES[dtype]

        def gradients(fn, arrays, cotangents):
            _, pull = jax.vjp(fn, *arrays)
            return pull(cotangents)

        cotangents = jax.tree.map(lambda y: draw(10, *y.shape, dtype=y.dtype), ours)
        exact = jax.jit(functools.partial(gradients, run_plain))(
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
    """Values and gradients are within the rounding of the weights. Four heads only: the plain
    version's logits must fit in memory.
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

        def gradients(attend, arrays):
            def loss(arrays):
                return jnp.sin(attend(*arrays, bias).astype(jnp.float32)).sum()

            return jax.jit(jax.grad(loss))(arrays)

        exact = gradients(plain_attention, in_float32((query, key, value)))
        assert error(gradients(run, (query, key, value)), exact) <= 32 * DTYPES[dtype]


@pytest.mark.parametrize("implementation", ["triton", "pallas"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CLIPS)
def test_channel_norm(shape, dtype, implementation):
    """Frames and gradients are within a few roundings, and the past is copied to the bit."""
    frames, rows, columns, channels, batch = CLIPS[shape]
    pixels = (rows, columns, channels)
    x = draw(0, batch, frames, *pixels, dtype=dtype)
    gamma = draw(1, channels, around=1.0, dtype=dtype)
    past = draw(2, batch, 2, *pixels, dtype=dtype)
    static = dict(silu=True, reach=2, keep=True)

    def loss(run, arrays):
        return sum(jnp.sin(part.astype(jnp.float32)).sum() for part in run(*arrays))

    run = functools.partial(channel_norm.channel_norm, implementation=implementation, **static)
    run_plain = functools.partial(plain_channel_norm, **static)
    arrays = (x, gamma, past)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(run_plain)(*in_float32(arrays))
        ours = jax.jit(run)(*arrays)
        assert bool(jnp.all(ours[0][:, :2] == past))
        assert error(ours, exact) <= 8 * DTYPES[dtype]
        exact = jax.jit(jax.grad(functools.partial(loss, run_plain)))(in_float32(arrays))
        found = jax.jit(jax.grad(functools.partial(loss, run)))(arrays)
        assert error(found, exact) <= 32 * DTYPES[dtype]
