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
from helios_jax.kernels.gated_residual import gated_residual, gated_residual_norm
from helios_jax.kernels.modulated_norm import modulated_layer_norm
from helios_jax.kernels.norm import layer_norm, rms_norm
from helios_jax.kernels.rows import pallas
from helios_jax.kernels.rows.shapes import SHAPES
from helios_jax.memory import compiler as deviceless
from tests.kernels.assembler import compile_and_assemble
from tests.kernels.interpret import INTERPRET, raced
from tests.kernels.triton_interpreter import Launch, interpret

EPS = 1e-6
H100 = Target("cuda", "NVIDIA H100 80GB HBM3")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
needs_compiler = pytest.mark.skipif(
    deviceless.unavailable() is not None,
    reason=f"cannot compile for a GPU: {deviceless.unavailable()}",
)


class Case(NamedTuple):
    """An operation with its static arguments, and the sizes of its arrays: tokens (all, noisy),
    rows or a weight.
    """

    run: Callable[..., Any]
    arrays: tuple[str, ...]


CASES = {
    "layer norm": Case(
        lambda history, **kw: functools.partial(layer_norm, eps=EPS, **kw),
        ("all", "weight", "weight"),
    ),
    "layer norm without weights": Case(
        lambda history, **kw: functools.partial(layer_norm, eps=EPS, **kw), ("all",)
    ),
    "rms norm": Case(
        lambda history, **kw: functools.partial(rms_norm, eps=EPS, **kw), ("all", "weight")
    ),
    "modulated norm": Case(
        lambda history, **kw: functools.partial(
            modulated_layer_norm, history=history, eps=EPS, **kw
        ),
        ("all", "rows", "rows"),
    ),
    "gated residual": Case(
        lambda history, **kw: functools.partial(gated_residual, history=history, **kw),
        ("all", "all", "rows"),
    ),
    "residual, then the affine norm of noisy tokens": Case(
        lambda history, **kw: functools.partial(
            gated_residual_norm, history=history, eps=EPS, norm_history=False, **kw
        ),
        ("all", "all", "rows", "row", "row"),
    ),
    "ungated residual of noisy tokens, then the modulated norm of all": Case(
        lambda history, **kw: functools.partial(
            gated_residual_norm, history=history, eps=EPS, **kw
        ),
        ("all", "noisy", "nothing", "rows", "rows"),
    ),
}


def shapes(case, tokens, history, channels, batch):
    """Of a case's arrays: None for one that is not there."""
    sizes = dict(
        all=(batch, tokens), noisy=(batch, tokens - history), rows=(batch, 2), row=(1, 1), weight=()
    )
    return [(*sizes[kind], channels) if kind in sizes else None for kind in CASES[case].arrays]


def inputs(case, dtype, tokens=4, history=1, channels=256, batch=2):
    """Activations in the dtype given, weights in float32."""
    rng = np.random.default_rng(0)
    kinds = zip(CASES[case].arrays, shapes(case, tokens, history, channels, batch))
    dtypes = dict(all=dtype, noisy=dtype)
    arrays = [
        None
        if size is None
        else jnp.asarray(rng.standard_normal(size), dtypes.get(kind, jnp.float32))
        for kind, size in kinds
    ]
    return arrays, CASES[case].run(history)


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
    """The Mosaic kernel as its interpreter runs it, on what is taken for an H100."""
    monkeypatch.setattr(dispatch, "target", lambda: H100)
    monkeypatch.setattr(
        pallas, "row_kernel", functools.partial(pallas.row_kernel, interpret=INTERPRET)
    )
    monkeypatch.setattr(pallas, "ROWS", 2)


# --- what the kernels compute


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_mosaic_kernel_is_the_plain_version(case, dtype, interpreted):
    """With several programs a segment, the last of them shorter, and weights of each batch row."""
    arrays, run = inputs(case, dtype)
    assert_rounded_alike(run(*arrays, implementation="pallas"), run(*arrays, implementation="xla"))
    assert not raced()


@needs_triton
def test_triton_kernel_is_the_plain_version(monkeypatch):
    """Rows of several chunks, in both dtypes that its interpreter rounds."""
    from helios_jax.kernels.rows import triton

    monkeypatch.setattr(dispatch, "target", lambda: H100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    launches = []

    def collect(x, y=None, gate=None, scale=None, shift=None, **case):
        arrays = (x, y, gate, scale, shift)
        grid, results, constants = triton.launch(*arrays, **case)
        blank = lambda like: (
            np.zeros((), x.dtype) if like is None else np.zeros(like.shape, like.dtype)
        )
        written = [np.array(x) if constants["IN_PLACE"] else blank(results[0]), blank(results[1])]
        read = [blank(None) if array is None else np.asarray(array) for array in arrays]
        launches.append(
            Launch(
                "helios_jax.kernels.rows.triton:row_kernel_body", grid, (*read, *written), constants
            )
        )
        return tuple(
            None if result is None else jnp.zeros(result.shape, result.dtype) for result in results
        )

    runs = [
        inputs(case, dtype, channels=96) for case in CASES for dtype in (jnp.float32, jnp.float16)
    ]
    monkeypatch.setattr(triton, "row_kernel", collect)
    for arrays, run in runs:
        run(*arrays, implementation="triton")
    written = iter(
        [tuple(jnp.asarray(array) for array in after[5:]) for after in interpret(*launches)]
    )
    monkeypatch.setattr(triton, "row_kernel", lambda **_: next(written))
    for arrays, run in runs:
        assert_rounded_alike(
            run(*arrays, implementation="triton"), run(*arrays, implementation="xla")
        )


def test_weights_may_be_16_bit_numbers(interpreted):
    """As the weights of queries' and keys' norms are in a bfloat16 transformer: they are widened,
    not the rows narrowed.
    """
    arrays, run = inputs("rms norm", jnp.bfloat16)
    arrays[1] = arrays[1].astype(jnp.bfloat16)
    assert_rounded_alike(run(*arrays, implementation="pallas"), run(*arrays, implementation="xla"))


def test_gradient_is_the_plain_versions(interpreted):
    """Of every array, through a kernel that is not differentiable itself, with two results and an
    array that is not there.
    """
    case = "ungated residual of noisy tokens, then the modulated norm of all"
    arrays, run = inputs(case, jnp.float32, tokens=3, batch=1)

    def loss(arrays, implementation):
        results = run(*arrays, implementation=implementation)
        return sum(jnp.sum(jnp.sin(result)) for result in jax.tree.leaves(results))

    ours, theirs = (jax.grad(loss)(arrays, implementation) for implementation in ("pallas", "xla"))
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.any(their != 0)
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


# --- the plain version of what is fused


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fused_norm_is_the_two_operations(dtype):
    """The sum is rounded before it is normed, as when it goes through memory."""
    (x, y, gate, scale, shift), _ = inputs("residual, then the affine norm of noisy tokens", dtype)
    added, normed = gated_residual_norm(
        x, y, gate, scale, shift, history=1, eps=EPS, norm_history=False
    )
    apart = gated_residual(x, y, gate, history=1)
    np.testing.assert_array_equal(added, apart)
    np.testing.assert_array_equal(
        normed, layer_norm(apart[:, 1:], scale[0, 0], shift[0, 0], eps=EPS)
    )


def test_history_without_a_term_stays():
    """Added to the noisy tokens alone, and normed with everything."""
    (x, y, _, scale, shift), run = inputs(
        "ungated residual of noisy tokens, then the modulated norm of all", jnp.bfloat16
    )
    added, normed = run(x, y, None, scale, shift)
    np.testing.assert_array_equal(added, jnp.concatenate([x[:, :1], x[:, 1:] + y], axis=1))
    np.testing.assert_array_equal(
        normed, modulated_layer_norm(added, shift, scale - 1, history=1, eps=EPS)
    )


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
            "pallas",
            Target("cuda", "NVIDIA A100"),
            "layer norm",
            {},
            "a Hopper GPU, not NVIDIA A100",
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
    arrays, run = inputs(case, **dict(dtype=jnp.float32) | sizes)
    with pytest.raises(UnsupportedError, match=reason):
        run(*arrays, implementation=implementation)


def test_what_no_kernel_serves_runs_anyway_and_is_said_once(caplog):
    """On a GPU, where it costs time; the device is that of the mesh in scope."""
    dispatch._say_once.cache_clear()
    arrays, run = inputs("modulated norm", jnp.float32, channels=51)
    gpu = jax.sharding.AbstractDevice(
        device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"
    )
    with (
        caplog.at_level(logging.WARNING, "helios_jax.kernels"),
        jax.sharding.use_abstract_mesh(
            jax.sharding.AbstractMesh((1,), ("device",), abstract_device=gpu)
        ),
    ):
        for _ in range(2):
            assert jax.eval_shape(run, *arrays).shape == arrays[0].shape
    assert (
        sum(
            "modulated_layer_norm: not pallas, it takes rows of a multiple of 128" in message
            for message in caplog.messages
        )
        == 1
    )


def test_a_cpu_runs_the_plain_version_in_silence(caplog):
    arrays, run = inputs("modulated norm", jnp.float32)
    with caplog.at_level(logging.DEBUG, "helios_jax.kernels"):
        np.testing.assert_array_equal(run(*arrays), run(*arrays, implementation="xla"))
    assert not caplog.messages


# --- what is compiled


def compiled(case, shape, implementation):
    """The program at a real shape in bfloat16, and the kernels in it."""
    tokens, history, channels, batch = shape
    sizes = shapes(case, tokens, history, channels, batch)
    dtypes = dict(all=jnp.bfloat16, noisy=jnp.bfloat16)
    arrays = [
        size and jax.ShapeDtypeStruct(size, dtypes.get(kind, jnp.float32))
        for kind, size in zip(CASES[case].arrays, sizes)
    ]
    return compile_and_assemble(CASES[case].run(history, implementation=implementation), *arrays)


@needs_compiler
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("case", CASES)
def test_compiles_for_an_h100(case, implementation):
    """At the largest of the real shapes: one kernel, no register spilled, and several programs a
    multiprocessor to keep the memory busy.
    """
    program, (kernel,) = compiled(case, SHAPES["11040 tokens"], implementation)
    assert {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[
        implementation
    ] in program.as_text()
    assert kernel.spilled == 0
    assert kernel.registers <= {"triton": 96, "pallas": 120}[implementation]
    assert kernel.shared_memory <= deviceless.SHARED_MEMORY
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20


@needs_compiler
@needs_triton
def test_history_that_stays_is_not_copied():
    """The sum is written over the activations where they are needed no more."""
    case = "ungated residual of noisy tokens, then the modulated norm of all"
    tokens, history, channels, batch = SHAPES["4560 tokens"]
    x, y, _, *rows = shapes(case, tokens, history, channels, batch)
    run = CASES[case].run(history, implementation="triton")
    program = deviceless.compile_for(
        jax.jit(lambda x, y, *rows: run(x, y, None, *rows), donate_argnums=0),
        *(jax.ShapeDtypeStruct(size, jnp.bfloat16) for size in (x, y)),
        *(jax.ShapeDtypeStruct(size, jnp.float32) for size in rows),
    )
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20
    assert " copy(" not in program.as_text()
