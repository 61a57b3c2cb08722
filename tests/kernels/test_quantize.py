"""Rounding to float8: the plain version is the formula, every kernel is the plain version, and what
compiles for an H100.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.kernels import dispatch
from helios_jax.kernels.dispatch import Target, UnsupportedError
from helios_jax.kernels.quantize import Quantized, UnscaledProduct, pallas, quantize, scaled
from helios_jax.kernels.quantize.shapes import SHAPES
from helios_jax.memory import compiler as deviceless
from tests.kernels.assembler import compile_and_assemble
from tests.kernels.interpret import INTERPRET
from tests.kernels.triton_interpreter import Launch, interpret

A100 = Target("cuda", "NVIDIA A100", (8, 0))
H100 = Target("cuda", "NVIDIA H100 80GB HBM3", (9, 0))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def tokens(dtype, channels=256, count=6):
    """Tokens of very different sizes, one of them all zeros."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** np.arange(count)[:, None] - 1
    return jnp.asarray(sizes * rng.standard_normal((count, channels)), dtype)


def product(dtype, channels=256, count=6):
    """A product without its scales and bias."""
    rng = np.random.default_rng(1)
    return UnscaledProduct(
        tokens(dtype, channels, count),
        jnp.asarray(rng.uniform(1e-4, 1, count), jnp.float32),
        jnp.asarray(rng.uniform(1e-3, 1, channels), jnp.float32),
        jnp.asarray(rng.standard_normal(channels), dtype),
    )


CASES = {
    "tokens": (tokens, False),
    "gelu of tokens": (tokens, True),
    "a product": (product, False),
    "gelu of a product": (product, True),
}


def plain(x, gelu):
    """The plain version, of GELU compiled: one operation after another rounds each to bfloat16."""
    run = functools.partial(quantize, gelu=gelu)
    return jax.jit(run)(x) if gelu else run(x)


def assert_alike(ours, theirs, case, dtype):
    """The same bits, but of GELU, which is computed in another way, and of a float32 product, whose
    bias XLA adds without rounding before: then within one rounding of the token's largest number,
    and within a step of float8, which few numbers are.
    """
    _, gelu = CASES[case]
    if not gelu and (case == "tokens" or dtype == jnp.bfloat16):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        return
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(ours.scale, theirs.scale, rtol=2 * unit)
    ours, theirs = (np.asarray(x.values.astype(jnp.float32)) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1 / 8, atol=448 * unit + 2.0**-9)
    # Three roundings to bfloat16 move that many of its eighths of a step across a half.
    assert np.mean(ours == theirs) > (0.9 if dtype == jnp.bfloat16 else 0.99)


def test_plain_version_is_the_formula():
    """The largest number of a token is 448, each is within half a step of three bits, and zeros
    stay zeros.
    """
    x = tokens(jnp.float32)
    values, scale = quantize(x)
    assert (values.dtype, scale.dtype) == (jnp.float8_e4m3fn, jnp.float32)
    back = np.asarray(values.astype(jnp.float32)) * np.asarray(scale)[:, None]
    largest = np.abs(x).max(1, keepdims=True)
    assert np.all(np.abs(back - x) <= np.maximum(np.abs(x) / 16, largest * 2.0**-10 / 448) * 1.001)
    np.testing.assert_allclose(np.abs(back).max(1), largest[:, 0], rtol=1e-6)
    assert not np.any(back[0])


def test_scales_and_bias_are_applied_as_in_a_pass_of_their_own():
    y = product(jnp.bfloat16)
    exact = np.asarray(y.sums, np.float32) * np.asarray(y.token_scale)[:, None]
    exact = jnp.asarray(exact * np.asarray(y.channel_scale)[None], jnp.bfloat16) + y.bias[None]
    np.testing.assert_array_equal(scaled(y), exact)
    jax.tree.map(np.testing.assert_array_equal, quantize(y), quantize(scaled(y)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_mosaic_kernel_is_the_plain_version(case, dtype):
    make, gelu = CASES[case]
    ours = pallas.quantize(make(dtype), gelu=gelu, interpret=INTERPRET)
    assert_alike(ours, plain(make(dtype), gelu), case, dtype)


@needs_triton
def test_triton_kernel_is_the_plain_version():
    """With a number of channels that is no power of two."""
    from helios_jax.kernels.quantize.triton import launch

    runs = []
    launches = []
    for case, (make, gelu) in CASES.items():
        for dtype in (jnp.float32, jnp.bfloat16):
            x = make(dtype, channels=96)
            grid, read, constants = launch(x, gelu)
            values = np.zeros(x.shape, jnp.float8_e4m3fn)
            arrays = (*map(np.asarray, read), values, np.zeros(x.shape[:1], np.float32))
            body = "helios_jax.kernels.quantize.triton:quantize_body"
            launches.append(Launch(body, grid, arrays, constants))
            runs.append((x, case, dtype))
    for (x, case, dtype), after in zip(runs, interpret(*launches), strict=True):
        assert_alike(Quantized(*after[-2:]), plain(x, CASES[case][1]), case, dtype)


@pytest.mark.parametrize(
    ("implementation", "on", "x", "reason"),
    [
        ("triton", Target("cpu", "cpu"), tokens(jnp.float32), "an NVIDIA GPU, not cpu"),
        (
            "triton",
            Target("cuda", "NVIDIA A100", (8, 0)),
            tokens(jnp.float32),
            "not on NVIDIA A100",
        ),
        ("triton", H100, tokens(jnp.float8_e4m3fn), "not float8_e4m3fn"),
        ("pallas", A100, tokens(jnp.float32), "not NVIDIA A100"),
        ("pallas", H100, tokens(jnp.float32, 96), "a multiple of 256 channels, not 96"),
    ],
)
def test_refusals_say_why(implementation, on, x, reason, monkeypatch):
    monkeypatch.setattr(dispatch, "target", lambda: on)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UnsupportedError, match=reason):
        quantize(x, implementation=implementation)


@pytest.mark.skipif(deviceless.unavailable() is not None, reason=str(deviceless.unavailable()))
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("case", ["tokens", "gelu of a product"])
def test_compiles_for_an_h100(case, implementation):
    """At the largest of the real shapes: one kernel, and no register spilled."""
    make, gelu = CASES[case]
    shape = SHAPES["feed-forward, 11040 tokens" if gelu else "attended, 11040 tokens"]
    x = jax.tree.map(lambda leaf: resized(leaf, shape), make(jnp.bfloat16))
    run = functools.partial(quantize, gelu=gelu, implementation=implementation)
    program, (kernel,) = compile_and_assemble(run, x)
    call = {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[implementation]
    assert call in program.as_text()
    assert kernel.spilled == 0
    assert kernel.shared_memory <= deviceless.SHARED_MEMORY
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20


def resized(leaf, shape):
    """An array of 6 tokens and 256 channels, with those of a real shape."""
    sizes = {6: shape.tokens, 256: shape.channels}
    return jax.ShapeDtypeStruct(tuple(sizes[size] for size in leaf.shape), leaf.dtype)
