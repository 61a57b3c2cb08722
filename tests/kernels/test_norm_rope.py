"""RMS norm and rotary embedding of the joint projection: every kernel against the plain version,
and what compiles for an H100.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.kernels.dispatch import Target, UnsupportedError
from helios_jax.kernels.norm_rope import api, pallas, reference
from helios_jax.kernels.norm_rope.api import norm_rope
from helios_jax.kernels.norm_rope.shapes import SHAPES
from helios_jax.kernels.quantize import UnscaledProduct, scaled
from helios_jax.kernels.residual_norm import rms_norm
from helios_jax.memory import compiler as deviceless
from tests.kernels.assembler import compile_and_assemble
from tests.kernels.interpret import INTERPRET
from tests.kernels.triton_interpreter import Launch, interpret

EPS = 1e-6
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
H100 = Target("cuda", "NVIDIA H100 80GB HBM3", (9, 0))


def inputs(dtype, tokens=6, heads=4, channels=128, gain=True, batch=2):
    """A projection, weights of both norms, rotations that also shrink, and a gain or None."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    angles = normal(tokens, channels // 2)
    rope = (0.9 * jnp.cos(angles), 0.9 * jnp.sin(angles))
    key_gain = 2 + normal(heads) if gain else None
    scales = tuple(1 + 0.1 * normal(heads * channels) for _ in range(2))
    return normal(batch, tokens, 3, heads, channels).astype(dtype), scales, rope, key_gain


def as_product(arrays):
    """The same arrays, the projection before its scales and bias."""
    qkv, *rest = arrays
    rng = np.random.default_rng(1)
    token_scale = jnp.asarray(rng.uniform(0.5, 2, qkv.shape[:2]), jnp.float32)
    channel_scale = jnp.asarray(rng.uniform(0.5, 2, qkv.shape[2:]), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(qkv.shape[2:]), qkv.dtype)
    return UnscaledProduct(qkv, token_scale, channel_scale, bias), *rest


def assert_rounded_alike(ours, theirs):
    """A few roundings apart at most. 16-bit numbers are nearly all the same: another order of the
    sum of squares moves few across a half.
    """
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert our.dtype == their.dtype
        unit = 4 * float(jnp.finfo(their.dtype).eps)
        our, their = np.asarray(our, np.float32), np.asarray(their, np.float32)
        np.testing.assert_allclose(our, their, rtol=unit, atol=unit)
        if unit > 1e-4:
            assert np.mean(our == their) > 0.99


def test_plain_version_is_the_formula():
    """Norm over all heads, rotation of neighbours by averaged angles, gain of the first keys only,
    values untouched.
    """
    arrays = inputs(jnp.float32)
    exact = jax.tree.map(lambda array: np.asarray(array, np.float64), arrays)
    x, scales, (cos, sin), gain = exact
    rotation = (cos + 1j * sin)[None, :, None]
    expected = []
    for part, scale in enumerate(scales):
        rms = np.sqrt(np.square(x[:, :, part]).mean((2, 3), keepdims=True) + EPS)
        normed = x[:, :, part] / rms * scale.reshape(4, 128)
        rotated = (normed[..., ::2] + 1j * normed[..., 1::2]) * rotation
        expected.append(np.stack([rotated.real, rotated.imag], axis=-1).reshape(normed.shape))
    expected[1][:, :2] *= gain[:, None]
    query, key, value = norm_rope(*arrays, history=2, eps=EPS)
    np.testing.assert_allclose(query, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(key, expected[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(value, arrays[0][:, :, 2])


def test_rotation_is_float32_between_two_roundings():
    """Queries and keys are rounded after their norm and after their rotation, which is exact in
    between.
    """
    qkv, scales, (cos, sin), _ = inputs(jnp.bfloat16)
    ours = norm_rope(qkv, scales, (cos, sin), history=0, eps=EPS)
    rotation = (np.float64(cos) + 1j * np.float64(sin))[None, :, None]
    for part, scale in enumerate(scales):
        normed = rms_norm(qkv[:, :, part].reshape(2, 6, 512), scale, eps=EPS)
        pairs = np.asarray(normed, np.float64).reshape(2, 6, 4, 64, 2)
        rotated = (pairs[..., 0] + 1j * pairs[..., 1]) * rotation
        exact = np.stack([rotated.real, rotated.imag], axis=-1).reshape(2, 6, 4, 128)
        assert ours[part].dtype == jnp.bfloat16
        error = np.abs(np.asarray(ours[part], np.float64) - exact)
        assert np.all(error <= np.abs(exact) * 2**-8 + 1e-6)


def test_tokens_behind_the_keys_have_queries_only():
    """What is left out changes nothing of what is there."""
    arrays = inputs(jnp.bfloat16)
    query, key, value = norm_rope(*arrays, history=2, eps=EPS)
    found = norm_rope(*arrays, history=2, eps=EPS, keys=4)
    for ours, theirs in zip(found, (query, key[:, :4], value[:, :4]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("history", [0, 4])
def test_gain_is_of_history_only(history):
    """Keys are rounded before they are multiplied, and again after; others are what they are
    without a gain.
    """
    *arrays, gain = inputs(jnp.bfloat16)
    plain = norm_rope(*arrays, None, history=history, eps=EPS)
    amplified = norm_rope(*arrays, gain, history=history, eps=EPS)
    expected = plain[1].astype(jnp.float32).at[:, :history].multiply(gain[None, None, :, None])
    expected = expected.astype(jnp.bfloat16)
    np.testing.assert_array_equal(amplified[1], expected)
    np.testing.assert_array_equal(amplified[0], plain[0])


MOSAIC_CASES = {
    "amplified": (inputs(jnp.bfloat16, tokens=4, heads=8), 3, 4),
    "no history": (inputs(jnp.float16, tokens=2, heads=8, channels=64), 0, 2),
    "no gain": (inputs(jnp.bfloat16, tokens=3, gain=False), 2, 3),  # a prime: a token a block
    "fewer keys": (inputs(jnp.bfloat16, tokens=6, heads=8), 3, 4),
    "product": (as_product(inputs(jnp.bfloat16, tokens=6, heads=8)), 3, 4),
}


@pytest.mark.parametrize("case", MOSAIC_CASES)
def test_mosaic_kernel_is_the_plain_version(case, monkeypatch):
    """With one group of heads and with several, with blocks of one and of two tokens, and history
    ending inside one.
    """
    monkeypatch.setattr(pallas, "MAX_TOKENS", 2)
    arrays, history, keys = MOSAIC_CASES[case]
    static = dict(history=history, eps=EPS, keys=keys)
    ours = pallas.norm_rope(*arrays, **static, interpret=INTERPRET)
    assert_rounded_alike(ours, reference.norm_rope(*arrays, **static))


def test_gradient_is_the_plain_versions(monkeypatch):
    """Of every array, through a kernel that is not differentiable itself."""
    monkeypatch.setattr(
        pallas, "norm_rope", functools.partial(pallas.norm_rope, interpret=INTERPRET)
    )
    arrays = inputs(jnp.bfloat16, tokens=2, batch=1)

    def gradient(run):
        def loss(arrays):
            parts = run(*arrays, history=1, eps=EPS)
            return sum(jnp.sum(jnp.sin(part.astype(jnp.float32))) for part in parts)

        return jax.tree.leaves(jax.jit(jax.grad(loss))(arrays))

    ours = gradient(api.IMPLEMENTATIONS["pallas"].run)
    theirs = gradient(reference.norm_rope)
    for our, their in zip(ours, theirs, strict=True):
        assert np.any(their != 0)
        np.testing.assert_allclose(
            our.astype(jnp.float32), their.astype(jnp.float32), rtol=0.02, atol=0.02
        )


@needs_triton
def test_triton_kernel_is_the_plain_version():
    """With one group of heads and with several, of queries alone and of amplified keys, and of a
    product without its scales, in every dtype.
    """
    from helios_jax.kernels.norm_rope.triton import launch

    cases = [
        (inputs(jnp.float32), 4, 6),
        (inputs(jnp.float16, heads=20), 4, 6),
        (inputs(jnp.float16, heads=3, channels=16), 0, 6),
        (inputs(jnp.float32), 2, 5),
        (inputs(jnp.bfloat16), 2, 5),
        (as_product(inputs(jnp.float32)), 2, 5),
        (as_product(inputs(jnp.bfloat16, heads=20)), 4, 6),
    ]
    launches = []
    for (qkv, *rest), history, keys in cases:
        grid, constants = launch(qkv, history, EPS, keys)
        sums, *unscaled = qkv if isinstance(qkv, UnscaledProduct) else (qkv, qkv, qkv, qkv)
        results = [sums[:, :tokens, 0] * 0 for tokens in (6, keys, keys)]
        arrays = jax.tree.leaves((sums, rest, unscaled, results))
        arrays = tuple(np.asarray(array) for array in arrays)
        body = "helios_jax.kernels.norm_rope.triton:norm_rope_body"
        launches.append(Launch(body, grid, arrays, constants))
    for (arrays, history, keys), after in zip(cases, interpret(*launches), strict=True):
        theirs = reference.norm_rope(*arrays, history=history, eps=EPS, keys=keys)
        assert_rounded_alike(after[-3:], theirs)


def test_a_products_scales_are_applied_first():
    """To the same bits as by a pass of their own."""
    qkv, *rest = as_product(inputs(jnp.bfloat16))
    ours = norm_rope(qkv, *rest, history=2, eps=EPS)
    theirs = norm_rope(scaled(qkv), *rest, history=2, eps=EPS)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    ("implementation", "on", "dtype", "sizes", "reason"),
    [
        ("triton", Target("cpu", "cpu"), jnp.bfloat16, {}, "an NVIDIA GPU, not cpu"),
        ("triton", H100, jnp.bfloat16, dict(channels=96), "1024 channels, not 96"),
        ("triton", H100, jnp.float8_e4m3fn, {}, "not float8_e4m3fn"),
        (
            "pallas",
            Target("cuda", "NVIDIA A100", (8, 0)),
            jnp.bfloat16,
            {},
            "capability 9 or 10, not NVIDIA A100",
        ),
        ("pallas", H100, jnp.bfloat16, dict(channels=32), "channels, not 32"),
        ("pallas", H100, jnp.bfloat16, dict(heads=6), "6 x 128 are not"),
        ("pallas", H100, jnp.float32, {}, "not float32"),
        ("cudnn", H100, jnp.bfloat16, {}, "there are triton, pallas, xla"),
    ],
)
def test_refusals_say_why(implementation, on, dtype, sizes, reason, monkeypatch):
    monkeypatch.setattr("helios_jax.kernels.dispatch.target", lambda: on)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    arrays = inputs(dtype, tokens=2, **sizes)
    with pytest.raises(UnsupportedError, match=reason):
        api.dispatch("norm_rope", api.IMPLEMENTATIONS, implementation, *arrays, history=0, eps=EPS)


@pytest.mark.skipif(deviceless.unavailable() is not None, reason=str(deviceless.unavailable()))
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("is_product", [False, True])
def test_compiles_for_an_h100(implementation, is_product):
    """At the largest of the real shapes: one kernel without spills, and no other pass over the
    projection.
    """
    shape = SHAPES["11040 tokens"]
    qkv = jax.ShapeDtypeStruct(
        (shape.batch, shape.tokens, 3, shape.heads, shape.channels), jnp.bfloat16
    )
    if is_product:
        token_scale = jax.ShapeDtypeStruct((shape.batch, shape.tokens), jnp.float32)
        channel_scale = jax.ShapeDtypeStruct(qkv.shape[2:], jnp.float32)
        bias = jax.ShapeDtypeStruct(qkv.shape[2:], jnp.bfloat16)
        qkv = UnscaledProduct(qkv, token_scale, channel_scale, bias)
    scale = jax.ShapeDtypeStruct((shape.heads * shape.channels,), jnp.float32)
    table = jax.ShapeDtypeStruct((shape.tokens, shape.channels // 2), jnp.float32)
    gain = jax.ShapeDtypeStruct((shape.heads,), jnp.float32)
    run = functools.partial(
        norm_rope, history=shape.history, eps=EPS, implementation=implementation
    )
    program, (kernel,) = compile_and_assemble(run, qkv, (scale, scale), (table, table), gain)
    assert kernel.spilled == 0
    # Beside the norm's weights, those of a product's scales and bias: three warpgroups instead of
    # four share a multiprocessor.
    assert kernel.registers <= (168 if is_product else 128)
    assert kernel.shared_memory <= deviceless.SHARED_MEMORY
    call = {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[implementation]
    assert call in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20
