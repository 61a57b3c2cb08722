"""Norms and residual additions: every kernel against plain JAX, what is refused, and what is
compiled for an H100.
"""

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.kernels import dispatch
from helios_jax.kernels.dispatch import Target, UnsupportedError
from helios_jax.kernels.quantize import UnscaledProduct, quantize, scaled
from helios_jax.kernels.residual_norm import (
    Norm,
    gated_residual,
    gated_residual_norm,
    layer_norm,
    modulated_layer_norm,
    pallas,
    pallas_backward,
    rms_norm,
)
from helios_jax.kernels.residual_norm.shapes import SHAPES
from helios_jax.memory import compiler as deviceless
from tests.kernels.assembler import compile_and_assemble
from tests.kernels.interpret import INTERPRET, raced
from tests.kernels.triton_interpreter import Launch, interpret

EPS = 1e-6
H100 = Target("cuda", "NVIDIA H100 80GB HBM3", (9, 0))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
needs_compiler = pytest.mark.skipif(
    deviceless.unavailable() is not None,
    reason=f"cannot compile for a GPU: {deviceless.unavailable()}",
)


class Case(NamedTuple):
    """An operation, its static arguments, and the kinds of its arrays.

    Attributes:
      operation: of :mod:`helios_jax.kernels.residual_norm`.
      static: its static arguments, save ``history`` where ``takes_history``.
      arrays: kinds whose sizes :func:`structs` knows; a pair is a tuple of arrays.
    """

    operation: Callable[..., Any]
    static: dict[str, Any]
    arrays: tuple[Any, ...]
    takes_history: bool = True

    def bind(self, history: int, implementation: str | None = None) -> Callable[..., Any]:
        """The operation as a function of its arrays."""
        static = self.static | (dict(history=history) if self.takes_history else {})
        return functools.partial(self.operation, implementation=implementation, **static)


EPSILON = dict(eps=EPS)
ALL = dict(norm=Norm(eps=EPS))
NOISY = dict(norm=Norm(eps=EPS, noisy_only=True))
ROUNDED = dict(quantized=True)
RESIDUAL_NOISY_NORM = "residual, then the affine norm of noisy tokens"
UNGATED_NOISY_RESIDUAL = "ungated residual of noisy tokens, then the modulated norm of all"
FLOAT8_RESIDUAL = "gated residual of a product, then the rounded norm of noisy tokens"
FLOAT8_NOISY_RESIDUAL = "ungated residual of a product of noisy tokens, then the rounded norm"
PRODUCT = UnscaledProduct("all", "token", "weight", "bias")
NOISY_PRODUCT = UnscaledProduct("noisy", "noisy token", "weight", "bias")
CASES = {
    "layer norm": Case(layer_norm, EPSILON, ("all", "weight", "weight"), takes_history=False),
    "layer norm without weights": Case(layer_norm, EPSILON, ("all",), takes_history=False),
    "rms norm": Case(rms_norm, EPSILON, ("all", "weight"), takes_history=False),
    "modulated norm": Case(modulated_layer_norm, EPSILON, ("all", "rows", "rows")),
    "gated residual": Case(gated_residual, {}, ("all", "all", "rows")),
    RESIDUAL_NOISY_NORM: Case(
        gated_residual_norm,
        NOISY,
        ("all", "all", "rows", ("row", "row")),
    ),
    UNGATED_NOISY_RESIDUAL: Case(
        gated_residual_norm, ALL, ("all", "noisy", None, ("rows", "rows"))
    ),
}
FLOAT8_CASES = {
    "rms norm of a product": Case(rms_norm, EPSILON, (PRODUCT, "weight"), takes_history=False),
    "gated residual of a product": Case(gated_residual, {}, ("all", PRODUCT, "rows")),
    "rounded modulated norm": Case(
        modulated_layer_norm, EPSILON | ROUNDED, ("all", "rows", "rows")
    ),
    FLOAT8_RESIDUAL: Case(
        gated_residual_norm,
        NOISY | ROUNDED,
        ("all", PRODUCT, "rows", ("row", "row")),
    ),
    FLOAT8_NOISY_RESIDUAL: Case(
        gated_residual_norm, ALL | ROUNDED, ("all", NOISY_PRODUCT, None, ("rows", "rows"))
    ),
}
"""Of a product of float8 operands, or rounded to float8: for sampling, with no gradient of their
own.
"""
ALL_CASES = CASES | FLOAT8_CASES


def structs(case, dtype, tokens, history, channels, batch):
    """Shapes and dtypes of a case's arrays: activations in the dtype given, weights in float32."""
    noisy = (batch, tokens - history)
    sizes = {
        "all": (batch, tokens, channels),
        "noisy": (*noisy, channels),
        "rows": (batch, 2, channels),
        "row": (1, 1, channels),
        "weight": (channels,),
        "bias": (channels,),
        "token": (batch, tokens),
        "noisy token": noisy,
    }

    def struct(kind):
        of_kind = dtype if kind in ("all", "noisy", "bias") else jnp.float32
        return jax.ShapeDtypeStruct(sizes[kind], of_kind)

    return jax.tree.map(struct, ALL_CASES[case].arrays)


def inputs(case, dtype, tokens=4, history=1, channels=256, batch=2):
    """Random arrays of a case."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda struct: jnp.asarray(rng.standard_normal(struct.shape), struct.dtype),
        structs(case, dtype, tokens, history, channels, batch),
    )


def run(case, arrays, implementation=None, history=1):
    """The operation of a case on its arrays."""
    return ALL_CASES[case].bind(history, implementation)(*arrays)


def assert_rounded_alike(ours, theirs):
    """One rounding apart at most; nearly all 16-bit numbers are the same."""
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert our.shape == their.shape
        assert our.dtype == their.dtype
        unit = 2 * float(jnp.finfo(their.dtype).eps)
        our, their = np.asarray(our, np.float32), np.asarray(their, np.float32)
        np.testing.assert_allclose(
            our, their, rtol=unit, atol=max(unit, 1e-5) if unit < 1e-4 else unit
        )
        if unit > 1e-4:
            assert np.mean(our == their) > 0.99


@pytest.fixture
def interpreted(monkeypatch):
    """The Mosaic kernels as their interpreter runs them, on what is taken for an H100."""
    monkeypatch.setattr(dispatch, "target", lambda: H100)
    for module, name in ((pallas, "residual_norm"), (pallas_backward, "residual_norm_backward")):
        run = functools.partial(getattr(module, name), interpret=INTERPRET)
        monkeypatch.setattr(module, name, run)
        monkeypatch.setattr(module, "TOKENS", 2)


# --- what the kernels compute


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", ALL_CASES)
def test_mosaic_kernel_is_the_plain_version(case, dtype, interpreted):
    """With several programs a segment, the last of them shorter, and weights of each sample."""
    arrays = inputs(case, dtype)
    assert_rounded_alike(run(case, arrays, "pallas"), run(case, arrays, "xla"))
    assert not raced()


@needs_triton
def test_triton_kernel_is_the_plain_version(monkeypatch):
    """Tokens of several chunks, in every dtype."""
    from helios_jax.kernels.residual_norm import triton

    monkeypatch.setattr(dispatch, "target", lambda: H100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    launches = []

    def collect(*arguments):
        """Keep the launch for later; return zeros."""
        *_, fusion = arguments
        grid, read, results, constants = triton.launch(*arguments)
        written = [np.zeros(result.shape, result.dtype) for result in results]
        if constants["IN_PLACE"]:
            written[0] = np.array(read[0])
        body = "helios_jax.kernels.residual_norm.triton:residual_norm_body"
        launches.append(Launch(body, grid, (*map(np.asarray, read), *written), constants))
        blank = [jnp.zeros(result.shape, result.dtype) for result in results]
        return triton.asked_for(*blank, arguments[1], fusion)

    runs = []
    for case in ALL_CASES:
        for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
            runs.append((case, inputs(case, dtype, channels=96)))
    monkeypatch.setattr(triton, "residual_norm", collect)
    for case, arrays in runs:
        run(case, arrays, "triton")
    results = iter([jax.tree.map(jnp.asarray, after[-3:]) for after in interpret(*launches)])

    def take(*arguments):
        return triton.asked_for(*next(results), arguments[1], arguments[-1])

    monkeypatch.setattr(triton, "residual_norm", take)
    for case, arrays in runs:
        assert_rounded_alike(run(case, arrays, "triton"), run(case, arrays, "xla"))


def test_weights_may_be_16_bit_numbers(interpreted):
    """As the weights of queries' and keys' norms are in a bfloat16 transformer: they are widened,
    not the activations narrowed.
    """
    x, weight = inputs("rms norm", jnp.bfloat16)
    arrays = (x, weight.astype(jnp.bfloat16))
    assert_rounded_alike(run("rms norm", arrays, "pallas"), run("rms norm", arrays, "xla"))


def gradient(case, arrays, implementation=None):
    """The gradient of a case by every array, for gradients of its results that are random."""
    results, pullback = jax.vjp(lambda arrays: run(case, arrays, implementation), arrays)
    rng = np.random.default_rng(1)
    outer = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), results)
    return pullback(outer)


def assert_gradients_agree(ours, theirs):
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.any(their != 0)
        assert our.dtype == their.dtype
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "stages"),
    [*((case, 2) for case in CASES), ("layer norm", 1), ("gated residual", 1)],
)
def test_mosaic_gradient_is_the_plain_versions(case, stages, interpreted, monkeypatch):
    """Of every array, with weights of each sample and several programs a segment, with one token in
    shared memory and with two.
    """
    if stages == 1:
        monkeypatch.setattr(pallas_backward, "SHARED_MEMORY", 0)
    arrays = inputs(case, jnp.float32)
    assert_gradients_agree(gradient(case, arrays, "pallas"), gradient(case, arrays, "xla"))
    assert not raced()


@needs_triton
def test_triton_gradient_is_the_plain_versions(monkeypatch):
    """Of every array, for tokens of several chunks; forward passes are tested above."""
    from helios_jax.kernels.residual_norm import triton, triton_backward

    monkeypatch.setattr(dispatch, "target", lambda: H100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(triton_backward, "TOKENS", 2)
    launches = []
    starts = []

    def forward(x, y, *rest):
        """Zeros, which the gradient does not depend on."""
        _, _, results, _ = triton.launch(x, y, *rest)
        blank = [jnp.zeros(result.shape, result.dtype) for result in results]
        return triton.asked_for(*blank, y, rest[-1])

    def collect(arrays, gradients, fusion):
        """Keep the launch for later; return zeros."""
        x = arrays[0]
        started = triton_backward.launch(arrays, fusion)

        def blank(like):
            return np.zeros((), x.dtype) if like is None else np.zeros(like.shape, like.dtype)

        read = (*arrays[:4], *gradients)
        read = [blank(None) if array is None else np.asarray(array) for array in read]
        written = [blank(result) for result in started.results]
        body = "helios_jax.kernels.residual_norm.triton_backward:residual_norm_backward_body"
        launches.append(Launch(body, started.grid, (*read, *written), started.constants))
        starts.append((started, gradients[0]))
        return started.gradients([jnp.asarray(array) for array in written], gradients[0])

    monkeypatch.setattr(triton, "residual_norm", forward)
    monkeypatch.setattr(triton_backward, "residual_norm_backward", collect)
    runs = [(case, inputs(case, jnp.float32, channels=96)) for case in CASES]
    for case, arrays in runs:
        gradient(case, arrays, "triton")
    found = []
    for after, (started, d_added) in zip(interpret(*launches), starts, strict=True):
        found.append(started.gradients([jnp.asarray(array) for array in after[6:]], d_added))
    results = iter(found)
    monkeypatch.setattr(triton_backward, "residual_norm_backward", lambda *_: next(results))
    for case, arrays in runs:
        assert_gradients_agree(gradient(case, arrays, "triton"), gradient(case, arrays, "xla"))


# --- the plain version of what is fused


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fused_norm_is_the_two_operations(dtype):
    """The sum is rounded before it is normed, as when it goes through memory."""
    x, y, gate, affine = inputs(RESIDUAL_NOISY_NORM, dtype)
    added, normed = gated_residual_norm(x, y, gate, affine, history=1, **NOISY)
    apart = gated_residual(x, y, gate, history=1)
    np.testing.assert_array_equal(added, apart)
    scale, shift = affine
    np.testing.assert_array_equal(
        normed, layer_norm(apart[:, 1:], scale[0, 0], shift[0, 0], eps=EPS)
    )


def test_history_without_a_term_stays():
    """Added to the noisy tokens alone, and normed with everything."""
    arrays = inputs(UNGATED_NOISY_RESIDUAL, jnp.bfloat16)
    x, y, _, (scale, shift) = arrays
    added, normed = run(UNGATED_NOISY_RESIDUAL, arrays)
    np.testing.assert_array_equal(added, jnp.concatenate([x[:, :1], x[:, 1:] + y], axis=1))
    np.testing.assert_array_equal(
        normed, modulated_layer_norm(added, shift, scale - 1, history=1, eps=EPS)
    )


@pytest.mark.parametrize("case", [FLOAT8_RESIDUAL, FLOAT8_NOISY_RESIDUAL])
def test_what_is_rounded_is_what_is_stored_elsewhere(case):
    """The scales of a product before, and the rounding after, change no bit of what passes of their
    own over the same numbers give.
    """
    x, y, *rest = inputs(case, jnp.bfloat16)
    static = ALL_CASES[case].static | dict(history=1, quantized=False)
    added, normed = gated_residual_norm(x, scaled(y), *rest, **static)
    found, rounded = run(case, (x, y, *rest))
    np.testing.assert_array_equal(found, added)
    jax.tree.map(np.testing.assert_array_equal, rounded, quantize(normed))


def test_a_term_for_some_of_the_noisy_tokens_is_an_error():
    with pytest.raises(ValueError, match="y has 4 tokens, but x has 5, of which 3 are noisy"):
        gated_residual(jnp.zeros((1, 5, 8)), jnp.zeros((1, 4, 8)), None, history=2)


# --- what is chosen


@pytest.mark.parametrize(
    ("implementation", "on", "case", "sizes", "reason"),
    [
        (
            "triton",
            Target("cpu", "cpu"),
            "rms norm",
            {},
            "rms_norm: triton cannot serve: it needs an NVIDIA GPU, not cpu",
        ),
        (
            "triton",
            H100,
            "gated residual",
            dict(channels=96 * 17),
            "a power of two up to 1024, not 1632 channels",
        ),
        ("triton", H100, "gated residual", dict(dtype=jnp.float8_e4m3fn), "not float8_e4m3fn"),
        (
            "triton",
            Target("cuda", "NVIDIA A100", (8, 0)),
            FLOAT8_RESIDUAL,
            {},
            "float8 on compute capability 8.9 and later, not on NVIDIA A100",
        ),
        (
            "pallas",
            Target("cuda", "NVIDIA A100", (8, 0)),
            "layer norm",
            {},
            "compute capability 9 or 10, not NVIDIA A100",
        ),
        (
            "pallas",
            H100,
            "modulated norm",
            dict(channels=64),
            "a multiple of 128 channels, up to 6144, not 64",
        ),
    ],
)
def test_refusals_say_why(implementation, on, case, sizes, reason, monkeypatch):
    monkeypatch.setattr(dispatch, "target", lambda: on)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    if implementation == "triton" and "channels" in sizes:
        pytest.importorskip("triton")
    arrays = inputs(case, **dict(dtype=jnp.float32) | sizes)
    with pytest.raises(UnsupportedError, match=reason):
        run(case, arrays, implementation)


def test_a_sum_of_two_dtypes_is_refused(monkeypatch):
    monkeypatch.setattr(dispatch, "target", lambda: H100)
    x, y, gate = inputs("gated residual", jnp.float32)
    with pytest.raises(UnsupportedError, match="arrays of one dtype, not float32 and bfloat16"):
        run("gated residual", (x, y.astype(jnp.bfloat16), gate), "pallas")


def test_what_no_kernel_serves_runs_anyway_and_warns_once(caplog):
    """On a GPU, where it costs time; the device is that of the mesh in scope."""
    dispatch._warn_once.cache_clear()
    arrays = inputs("modulated norm", jnp.float32, channels=51)
    plain = functools.partial(run, "modulated norm")
    gpu = jax.sharding.AbstractDevice(
        device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"
    )
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=gpu)
    with (
        caplog.at_level(logging.WARNING, "helios_jax.kernels"),
        jax.sharding.use_abstract_mesh(mesh),
    ):
        for _ in range(2):
            assert jax.eval_shape(plain, arrays).shape == arrays[0].shape
    warning = "modulated_layer_norm: not pallas, it takes tokens of a multiple of 128"
    assert sum(warning in message for message in caplog.messages) == 1


def test_a_cpu_runs_the_plain_version_in_silence(caplog):
    arrays = inputs("modulated norm", jnp.float32)
    with caplog.at_level(logging.DEBUG, "helios_jax.kernels"):
        np.testing.assert_array_equal(
            run("modulated norm", arrays), run("modulated norm", arrays, "xla")
        )
    assert not caplog.messages


# --- what is compiled


def compiled(case, shape, implementation):
    """The program at a real shape in bfloat16, and the kernels in it."""
    arrays = structs(case, jnp.bfloat16, *shape)
    return compile_and_assemble(ALL_CASES[case].bind(shape.history, implementation), *arrays)


@needs_compiler
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("case", ALL_CASES)
def test_compiles_for_an_h100(case, implementation):
    """At the largest of the real shapes: one kernel, no register spilled, and several programs a
    multiprocessor to keep the memory busy.
    """
    program, (kernel,) = compiled(case, SHAPES["11040 tokens"], implementation)
    call = {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[implementation]
    assert call in program.as_text()
    assert kernel.spilled == 0
    assert kernel.registers <= {"triton": 96, "pallas": 120}[implementation]
    assert kernel.shared_memory <= deviceless.SHARED_MEMORY
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20


@needs_compiler
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("case", CASES)
def test_gradient_compiles_for_an_h100(case, implementation):
    """At the largest of the real shapes: one kernel, no register spilled, and beside it the
    programs' sums, a few per cent of the activations.
    """
    shape = SHAPES["11040 tokens"]
    arrays = structs(case, jnp.bfloat16, *shape)
    operation = CASES[case].bind(shape.history, implementation)
    with deviceless.tracing_for("h100"):
        results = jax.eval_shape(operation, *arrays)

    def backward(arrays, outer):
        return jax.vjp(lambda arrays: operation(*arrays), arrays)[1](outer)

    program, kernels = compile_and_assemble(backward, arrays, results)
    call = {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[implementation]
    assert program.as_text().count(f'custom_call_target="{call}') == 1
    assert [kernel.spilled for kernel in kernels if "backward" in kernel.name] == [0]
    assert all(kernel.shared_memory <= deviceless.SHARED_MEMORY for kernel in kernels)
    assert program.memory_analysis().temp_size_in_bytes < 32 << 20


@needs_compiler
@needs_triton
def test_history_that_stays_is_not_copied():
    """The sum is written over the activations where they are needed no more."""
    shape = SHAPES["4560 tokens"]
    x, y, _, affine = structs(UNGATED_NOISY_RESIDUAL, jnp.bfloat16, *shape)
    operation = CASES[UNGATED_NOISY_RESIDUAL].bind(shape.history, "triton")
    add_and_norm = jax.jit(lambda x, y, affine: operation(x, y, None, affine), donate_argnums=0)
    program = deviceless.compile_for(add_and_norm, x, y, affine)
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20
    assert " copy(" not in program.as_text()
