"""The norm over channels: the plain version is the formula, every kernel is the plain version, and
what compiles for an H100.
"""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.kernels import dispatch
from helios_jax.kernels.channel_norm import channel_norm, pallas
from helios_jax.kernels.channel_norm.shapes import SHAPES
from helios_jax.kernels.dispatch import Target, UnsupportedError
from helios_jax.memory import compiler as deviceless
from tests.kernels.assembler import compile_and_assemble
from tests.kernels.interpret import clipping_copies, raced
from tests.kernels.triton_interpreter import Launch, interpret

A100 = Target("cuda", "NVIDIA A100", (8, 0))
H100 = Target("cuda", "NVIDIA H100 80GB HBM3", (9, 0))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def clip(dtype, frames=3, rows=2, columns=3, channels=96, batch=1, reach=0):
    """Frames, weights, and a past of ``reach`` frames or None; one pixel is all zeros."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((batch, frames, rows, columns, channels))
    x[0, 0, 0, 0] = 0
    gamma = rng.uniform(0.5, 2, channels)
    past = rng.standard_normal((batch, reach, rows, columns, channels)) if reach else None
    arrays = (x, gamma, past)
    return tuple(None if array is None else jnp.asarray(array, dtype) for array in arrays)


CASES = {
    "norm": (dict(channels=192), dict()),
    "norm and SiLU": (dict(), dict(silu=True)),
    "behind zeros": (dict(batch=2), dict(silu=True, reach=2)),
    "behind zeros, the last kept": (dict(), dict(silu=True, reach=2, keep=True)),
    "behind a past": (dict(batch=2, reach=2), dict(silu=True, reach=2, keep=True)),
    "one frame": (dict(frames=1, reach=2), dict(silu=True, reach=2, keep=True)),
    "whole tiles": (dict(rows=8, columns=16, frames=2, reach=2), dict(reach=2, keep=True)),
    "more than a tile": (dict(rows=5, columns=13, channels=384, frames=1), dict(silu=True)),
}
"""Sizes of a clip, and what is asked for."""


def assert_alike(ours, theirs):
    """The same arrays within a rounding; frames before the clip, which are copied, to the bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (our.shape, our.dtype) == (their.shape, their.dtype)
        unit = float(jnp.finfo(their.dtype).eps)
        our, their = np.asarray(our, np.float32), np.asarray(their, np.float32)
        np.testing.assert_allclose(our, their, rtol=4 * unit, atol=4 * unit)


def test_plain_version_is_the_formula():
    """Pixels of zeros stay zeros, and the past is in front as it was."""
    x, gamma, past = clip(jnp.float32, reach=2)
    frames, last = channel_norm(x, gamma, past, silu=True, reach=2, keep=True)
    exact = np.asarray(x, np.float64)
    length = np.maximum(np.sqrt(np.square(exact).sum(-1, keepdims=True)), 1e-12)
    exact = 96**0.5 * np.asarray(gamma, np.float64) * exact / length
    exact = exact / (1 + np.exp(-exact))
    np.testing.assert_array_equal(frames[:, :2], past)
    np.testing.assert_allclose(frames[:, 2:], exact, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(last, frames[:, -2:])
    assert not np.any(frames[0, 2, 0, 0])


def test_without_a_past_there_are_zeros_in_front():
    x, gamma, _ = clip(jnp.bfloat16)
    frames, last = channel_norm(x, gamma, reach=2)
    assert (frames.shape[1], last) == (5, None)
    assert not np.any(frames[:, :2])


def test_pieces_whose_last_frames_are_handed_on_are_the_clip():
    x, gamma, _ = clip(jnp.float32, frames=6)
    whole, _ = channel_norm(x, gamma, silu=True, reach=2)
    past = None
    pieces = []
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        piece = x[:, start:stop]
        frames, past = channel_norm(piece, gamma, past, silu=True, reach=2, keep=True)
        pieces.append(frames if start == 0 else frames[:, 2:])
    np.testing.assert_array_equal(jnp.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_mosaic_kernel_is_the_plain_version(case, dtype):
    sizes, static = CASES[case]
    arrays = clip(dtype, **sizes)
    with clipping_copies() as parameters:
        ours = pallas.channel_norm(*arrays, **static, interpret=parameters)
    assert not raced()
    assert_alike(ours, channel_norm(*arrays, **static))


@needs_triton
def test_triton_kernel_is_the_plain_version():
    from helios_jax.kernels.channel_norm.triton import launch

    runs = []
    launches = []
    for sizes, static in CASES.values():
        for dtype in (jnp.float32, jnp.bfloat16):
            arrays = clip(dtype, **sizes)
            asked = dict(silu=False, reach=0, keep=False) | static
            grid, read, results, constants = launch(*arrays, **asked)
            written = [np.full(result.shape, np.nan, result.dtype) for result in results]
            body = "helios_jax.kernels.channel_norm.triton:channel_norm_body"
            launches.append(Launch(body, grid, (*map(np.asarray, read), *written), constants))
            runs.append((arrays, static))
    for (arrays, static), after in zip(runs, interpret(*launches), strict=True):
        frames, last = after[-2:]
        ours = (frames, last if static.get("keep") else None)
        assert_alike(ours, channel_norm(*arrays, **static))


@pytest.mark.parametrize(
    ("implementation", "on", "x", "reason"),
    [
        ("triton", Target("cpu", "cpu"), (jnp.float32, 96), "an NVIDIA GPU, not cpu"),
        ("triton", H100, (jnp.float8_e4m3fn, 96), "not float8_e4m3fn"),
        ("triton", H100, (jnp.float32, 8192), "up to 4096 channels, not 8192"),
        ("pallas", A100, (jnp.float32, 96), "not NVIDIA A100"),
        ("pallas", H100, (jnp.float32, 100), "a multiple of 8 channels, up to 512, not 100"),
        ("pallas", H100, (jnp.float32, 1024), "up to 512, not 1024"),
    ],
)
def test_refusals_say_why(implementation, on, x, reason, monkeypatch):
    monkeypatch.setattr(dispatch, "target", lambda: on)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    dtype, channels = x
    frames = jax.ShapeDtypeStruct((1, 1, 2, 2, channels), dtype)
    gamma = jax.ShapeDtypeStruct((channels,), jnp.float32)
    run = functools.partial(channel_norm, implementation=implementation)
    with pytest.raises(UnsupportedError, match=reason):
        jax.eval_shape(run, frames, gamma)


@pytest.mark.skipif(deviceless.unavailable() is not None, reason=str(deviceless.unavailable()))
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiles_for_an_h100(shape, implementation):
    """One kernel, with no register spilled, and nothing copied around it: Triton's writes the last
    frames in the place of the past.
    """
    frames, rows, columns, channels, batch = SHAPES[shape]
    pixels = (rows, columns, channels)
    arrays = ((batch, frames, *pixels), (channels,), (batch, 2, *pixels))
    arrays = [jax.ShapeDtypeStruct(array, jnp.bfloat16) for array in arrays]
    run = functools.partial(
        channel_norm, silu=True, reach=2, keep=True, implementation=implementation
    )
    donated = 2 if implementation == "triton" else ()
    program, (kernel,) = compile_and_assemble(jax.jit(run, donate_argnums=donated), *arrays)
    call = {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[implementation]
    assert call in program.as_text()
    assert kernel.spilled == 0
    assert kernel.shared_memory <= deviceless.SHARED_MEMORY
    assert program.memory_analysis().temp_size_in_bytes < 1 << 20


@pytest.mark.skipif(deviceless.unavailable() is not None, reason=str(deviceless.unavailable()))
@needs_triton
def test_frames_that_are_handed_on_are_written_in_place():
    """From piece to piece, as the decoder runs, nothing copies the past."""
    piece = jax.ShapeDtypeStruct((1, 4, 8, 8, 96), jnp.bfloat16)
    gamma = jax.ShapeDtypeStruct((96,), jnp.bfloat16)
    past = jax.ShapeDtypeStruct((1, 2, 8, 8, 96), jnp.bfloat16)

    def decode(pieces, gamma, past):
        results = []
        for piece in pieces:
            frames, past = channel_norm(
                piece, gamma, past, silu=True, reach=2, keep=True, implementation="triton"
            )
            results.append(frames)
        return results, past

    program = deviceless.compile_for(jax.jit(decode, donate_argnums=2), [piece] * 3, gamma, past)
    text = program.as_text()
    assert text.count("custom_call_target=") == 3
    assert not re.search(r" (copy|fusion)\(", text)


@pytest.mark.skipif(deviceless.unavailable() is not None, reason=str(deviceless.unavailable()))
@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
@pytest.mark.parametrize("case", ["norm", "behind zeros", "behind zeros, the last kept"])
def test_every_way_of_asking_compiles_for_an_h100(case, implementation):
    """Without a past, too, as a clip begins, and without SiLU, as before attention."""
    sizes, static = CASES[case]
    x, gamma, _ = clip(jnp.bfloat16, **sizes)
    run = functools.partial(channel_norm, implementation=implementation, **static)
    program = deviceless.compile_for(run, x, gamma)
    assert "helios_channel_norm" in program.as_text()
