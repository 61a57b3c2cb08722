"""Attention: the Mosaic kernel against the plain version, padding that few keys stand for, and what
compiles for an H100.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from helios_jax.kernels.attention import (
    ATTENTION_OUTPUT,
    MASK_VALUE,
    api,
    attention,
    by_head,
    padding_bias,
    pallas,
    reference,
    xla,
)
from helios_jax.kernels.attention.api import IMPLEMENTATIONS
from helios_jax.kernels.attention.shapes import SHAPES
from helios_jax.kernels.dispatch import Target, UnsupportedError
from helios_jax.memory import compiler as deviceless
from tests.kernels.interpret import clipping_copies, raced

H100 = Target("cuda", "NVIDIA H100 80GB HBM3", (9, 0))
A100 = Target("cuda", "NVIDIA A100-SXM4-80GB", (8, 0))
CPU = Target("cpu", "cpu")
needs_compiler = pytest.mark.skipif(
    deviceless.unavailable() is not None,
    reason=f"cannot compile for a GPU: {deviceless.unavailable()}",
)


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def inputs(dtype, batch=1, queries=70, keys=140, heads=1, channels=64):
    """Queries, keys and values."""
    sizes = (queries, keys, keys)
    return tuple(
        normal(seed, batch, tokens, heads, channels, dtype=dtype)
        for seed, tokens in enumerate(sizes)
    )


# --- the padding of a text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("lengths", [(1, 37), (60, 59), (3, 2)])
def test_four_padding_keys_stand_for_all(lengths, dtype):
    """Attention to 64 keys with biases, rounded to any dtype, equals attention to 512 without,
    computed in float64.
    """
    total, rows = 512, 64
    query, key, value = inputs(jnp.float32, batch=2, queries=9, keys=total, heads=2, channels=8)
    is_token = (jnp.arange(total)[None] < jnp.array(lengths)[:, None])[..., None, None]
    key, value = (jnp.where(is_token, x, x[:, -1:]) for x in (key, value))
    bias = padding_bias(jnp.array(lengths), rows, total)
    assert bias.shape == (2, rows)
    rounded = bias.astype(dtype).astype(jnp.float32)
    exact_query, exact_key, exact_value = (np.asarray(x, np.float64) for x in (query, key, value))
    weights = np.exp(np.einsum("bnkd,bskd->bkns", exact_query, exact_key) * query.shape[-1] ** -0.5)
    exact = np.einsum("bkns,bskd->bnkd", weights / weights.sum(-1, keepdims=True), exact_value)
    np.testing.assert_allclose(
        attention(query, key[:, :rows], value[:, :rows], rounded), exact, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    ("length", "rows"), [(511, 512), (508, 511), (63, 64), (62, 64), (512, 512), (509, 512)]
)
def test_padding_weighs_as_much_with_fewer_keys(length, rows):
    """However few keys are left for it, the padding's weights sum to its count in float32."""
    weights = np.exp(np.asarray(padding_bias(jnp.array([length]), rows, 512), np.float64))[0]
    np.testing.assert_array_equal(weights[:length], 1)
    np.testing.assert_allclose(weights[length:].sum(), 512 - length, rtol=1e-6)


# --- the choice


@pytest.mark.parametrize(
    ("target", "dtype", "channels", "expected"),
    [
        (H100, jnp.bfloat16, 128, ["cudnn", "pallas", "xla"]),
        (H100, jnp.float16, 64, ["cudnn", "pallas", "xla"]),
        (H100, jnp.bfloat16, 96, ["cudnn", "xla"]),
        (H100, jnp.float32, 128, ["xla"]),
        (A100, jnp.bfloat16, 128, ["cudnn", "xla"]),
        (CPU, jnp.bfloat16, 128, ["by_head", "xla"]),
    ],
)
def test_these_implementations_serve(target, dtype, channels, expected):
    arrays = inputs(dtype, channels=channels)
    serving = []
    for name, implementation in IMPLEMENTATIONS.items():
        if implementation.refuses(target, *arrays, None) is None:
            serving.append(name)
    assert serving == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cudnn", "it needs an NVIDIA GPU, not cpu"),
        ("pallas", "it needs a GPU of compute capability 9.0"),
    ],
)
def test_refusals_say_why(name, reason):
    with pytest.raises(UnsupportedError, match=reason):
        attention(*inputs(jnp.bfloat16), implementation=name)


def test_mixed_dtypes_are_refused():
    query, key, value = inputs(jnp.bfloat16)
    for name in ("cudnn", "pallas"):
        reason = IMPLEMENTATIONS[name].refuses(H100, query, key, value.astype(jnp.float32), None)
        assert reason == "it takes bfloat16 or float16, the same for all, not bfloat16 and float32"


# --- one head after another


def plain(query, key, value, bias):
    """Attention in the arrays' dtype."""
    logits = jnp.einsum("bnkd,bskd->bkns", query, key) / np.sqrt(query.shape[-1])
    logits += bias[:, None, None]
    return jnp.einsum("bkns,bskd->bnkd", jax.nn.softmax(logits), value)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(batch=2, queries=5, keys=131, heads=2, channels=24),
        dict(queries=70, keys=37, heads=3),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2**-7)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("attend", [by_head.attention, xla.attention])
def test_gradient_from_softmax_sums_is_exact(sizes, dtype, tolerance, biased, attend):
    """Values and gradients are those of float64, rounded once to the arrays' dtype; logits of
    hundreds do not overflow.
    """
    query, key, value = inputs(dtype, **sizes)
    arrays = (40 * query, key, value)
    cotangent = normal(4, *query.shape, dtype=dtype)
    bias = 3 * normal(3, *key.shape[:2]).at[0, 1:3].set(MASK_VALUE) if biased else None
    value, pullback = jax.vjp(attend, *arrays, bias)
    ours = [value, *jax.tree.leaves(pullback(cotangent))]
    assert [x.dtype for x in ours] == [dtype] * 4 + [jnp.float32] * biased
    zero_bias = jnp.zeros(key.shape[:2])

    def in_float64(x):
        return jnp.asarray(np.asarray(x, np.float64))

    with jax.enable_x64():
        exact_bias = in_float64(zero_bias if bias is None else bias)
        value, pullback = jax.vjp(plain, *map(in_float64, arrays), exact_bias)
        theirs = [value, *pullback(in_float64(cotangent))]
    for one, other in zip(ours, theirs, strict=False):
        np.testing.assert_allclose(
            np.asarray(one, np.float64), other, rtol=tolerance, atol=tolerance * np.abs(other).max()
        )


def gradient_with_kept_attention(implementation):
    """The gradient of attention of which a checkpoint's policy keeps what has its name."""

    def attend(*arrays):
        return attention(*arrays, implementation=implementation)

    policy = jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT)
    run = jax.checkpoint(attend, policy=policy)
    return jax.grad(lambda arrays: run(*arrays).astype(jnp.float32).sum())


@pytest.mark.parametrize("implementation", ["by_head", "xla"])
def test_kept_attention_is_not_computed_again(implementation, monkeypatch):
    """The backward pass exponentiates once, for the weights."""
    monkeypatch.setattr(api, "MAX_PLAIN_LOGITS", 0)
    program = jax.jit(gradient_with_kept_attention(implementation)).lower(inputs(jnp.float32))
    assert program.as_text().count("stablehlo.exponential") == 2  # once more in the forward pass


@needs_compiler
def test_kept_attention_of_cudnn_runs_once():
    """One forward and one backward kernel, and the gradient of a sum of attended values that
    nothing else needs has no third.
    """
    arrays = inputs(jnp.bfloat16, queries=256, keys=256)
    text = deviceless.compile_for(gradient_with_kept_attention("cudnn"), arrays).as_text()
    assert len(re.findall(r'custom_call_target="__cudnn\$fmhaSoftmax"', text)) == 1
    assert len(re.findall(r'custom_call_target="__cudnn\$fmhaSoftmaxBackward"', text)) == 1


# --- the Mosaic kernel


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel in Pallas' interpreter, which has no matrix product with an operand in registers:
    here it is jnp's.
    """

    def product(a, b, *, transpose=False):
        a, b = a[...], b[...]
        # Tensor cores need no fence before the next copy, but threads do, which read it here.
        plgpu.commit_smem()
        return jnp.matmul(a, b.T if transpose else b, preferred_element_type=jnp.float32)

    monkeypatch.setattr(pallas, "_product", product)
    with clipping_copies() as interpret:
        yield lambda *arrays: pallas.attention(*arrays, interpret=interpret)


@pytest.mark.parametrize(
    ("sizes", "biased"),
    [
        # Ends inside a second tile of queries and inside a second block of keys.
        (dict(queries=130, keys=140, heads=2), False),
        # A third block of keys, in the stage of the first.
        (dict(queries=5, keys=300, batch=2), True),
    ],
)
def test_mosaic_kernel_is_the_plain_version(interpreted, sizes, biased):
    """And no warpgroup reads or writes shared memory that another one uses."""
    arrays = inputs(jnp.bfloat16, **sizes)
    bias = None
    if biased:
        # A whole block is masked, before others that are not.
        bias = 3 * normal(3, *arrays[1].shape[:2]).at[0, :130].set(-jnp.inf)
    ours = interpreted(*arrays, bias)
    assert not raced()
    exact = reference.attention(*(x.astype(jnp.float32) for x in arrays), bias)
    assert ours.dtype == jnp.bfloat16
    assert ours.shape == exact.shape
    # Weights and results are rounded to 8 bits, weights in proportion to themselves.
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-7, atol=2**-9)


@pytest.mark.parametrize("biased", [False, True])
def test_gradient_is_the_plain_versions(monkeypatch, biased):
    """Where there is no cuDNN, the Mosaic kernel is differentiated as the plain version, in the
    bias, too.
    """
    monkeypatch.setattr(pallas, "attention", lambda query, key, value, bias: jnp.ones_like(query))
    arrays = (
        *inputs(jnp.float32, queries=6, keys=9, channels=8),
        normal(3, 1, 9) if biased else None,
    )

    def gradient(run):
        return jax.grad(lambda arrays: (normal(4, 1, 6, 1, 8) * run(*arrays)).sum())(arrays)

    ours = gradient(IMPLEMENTATIONS["pallas"].run)
    theirs = gradient(reference.attention)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert len(jax.tree.leaves(ours)) == 3 + biased


# --- what compiles


def structs(shape, dtype=jnp.bfloat16):
    heads = (shape.heads, shape.channels)
    query = jax.ShapeDtypeStruct((shape.batch, shape.queries, *heads), dtype)
    key = jax.ShapeDtypeStruct((shape.batch, shape.keys, *heads), dtype)
    bias = jax.ShapeDtypeStruct((shape.batch, shape.keys), jnp.float32) if shape.bias else None
    return query, key, key, bias


@pytest.fixture
def assembled(tmp_path, monkeypatch):
    """Compiles for an H100; also gives what the assembler said of Mosaic kernels: bytes of
    registers spilled.
    """
    for name, setting in dict(TO=tmp_path, PTXAS=1).items():
        monkeypatch.setenv(f"MOSAIC_GPU_DUMP_{name}", str(setting))

    def compile(fn, *args):
        compiled = deviceless.compile_for(fn, *args)
        spilled = []
        for path in tmp_path.glob("*.ptxas"):
            spilled += map(int, re.findall(r"(\d+) bytes spill", path.read_text()))
        return compiled, spilled

    return compile


@needs_compiler
@pytest.mark.parametrize("name", ["self 11040", "last block 540", "text 8640 x 256"])
def test_mosaic_kernel_compiles(assembled, name):
    """At real sizes, within the shared memory (or it would not compile) and without a register
    spilled.
    """
    compiled, spilled = assembled(
        lambda *arrays: attention(*arrays, implementation="pallas"), *structs(SHAPES[name])
    )
    assert "mosaic_gpu" in compiled.as_text()
    assert spilled == [0, 0]


@needs_compiler
@pytest.mark.parametrize("name", ["self 11040", "text 8640 x 512", "text 8640 x 256"])
def test_automatic_choice_is_cudnn(name):
    """For every size, with a bias too, and without anything as large as the logits: 18 GiB at
    11040 tokens.
    """
    compiled = deviceless.compile_for(attention, *structs(SHAPES[name]))
    call = "__cudnn$fmhaScaleBiasSoftmax" if SHAPES[name].bias else "__cudnn$fmhaSoftmax"
    assert f'"{call}"' in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**26


@needs_compiler
@pytest.mark.parametrize("implementation", ["cudnn", "pallas"])
def test_backward_is_cudnn(implementation):
    """The logits of 11040 tokens are never held for a gradient."""

    def run(*arrays):
        return attention(*arrays, implementation=implementation).astype(jnp.float32).sum()

    compiled = deviceless.compile_for(
        jax.grad(run, argnums=(0, 1, 2)), *structs(SHAPES["self 11040"])
    )
    assert '"__cudnn$fmhaSoftmaxBackward"' in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30
