"""Eight-bit weights are close, small, and scaled channel by channel."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint.params import blocks_in_host_memory, random_params
from helios_jax.models.layer_stack import separate_layers
from helios_jax.models.layers import Projection
from helios_jax.models.quantization import (
    QUANTIZED,
    outputs_first,
    quantize_transformer,
    round_to_8_bits,
)
from helios_jax.models.transformer import HeliosTransformer

from ..sampling.conftest import TOY

KINDS = [("int8", jnp.int8, 2**-8), ("fp8", jnp.float8_e4m3fn, 2**-4)]


@pytest.mark.parametrize(("name", "dtype", "relative"), KINDS)
def test_rounding_is_as_fine_as_eight_bits_allow(name, dtype, relative):
    """int8: half a step of the largest over 127; float8 e4m3: half a unit in the last of three
    bits. The largest is met exactly.
    """
    x = jax.random.normal(jax.random.key(0), (64, 5)) * (10.0 ** jnp.arange(5.0))[None]
    rounded, scale = round_to_8_bits(x, (0,), dtype)
    assert (rounded.dtype, scale.shape) == (dtype, (5,))
    error = jnp.abs(rounded.astype(jnp.float32) * scale[None] - x)
    largest = jnp.abs(x).max(0, keepdims=True)
    if name == "int8":
        bound = largest / 254
    else:
        bound = jnp.maximum(jnp.abs(x) * relative, largest / 448 * 2**-9)
    assert bool((error <= bound * 1.001).all())
    np.testing.assert_allclose(
        jnp.abs(rounded.astype(jnp.float32) * scale[None]).max(0, keepdims=True), largest, rtol=1e-6
    )


def test_a_channel_of_zeros_stays_zero():
    rounded, scale = round_to_8_bits(jnp.zeros((4, 2)), (0,), jnp.int8)
    assert not rounded.any()
    assert bool(jnp.isfinite(scale).all())


@pytest.mark.parametrize("round_activations", [False, True])
@pytest.mark.parametrize(("features", "inputs"), [((7,), 1), ((3, 2, 4), 1), ((7,), 2)])
@pytest.mark.parametrize(("name", "dtype", "relative"), KINDS)
def test_projection_with_a_quantized_kernel(
    name, dtype, relative, features, inputs, round_activations
):
    """x · (Q diag(s)) with the rounded kernel in float32, up to the rounding of activations; bias
    and shapes as ever.
    """
    contracted = (6, 4)[2 - inputs :]
    sizes = jnp.array([1.0, 100.0])[:, None, *[None] * inputs]
    x = sizes * jax.random.normal(jax.random.key(1), (2, 5, *contracted))
    kernel = jax.random.normal(jax.random.key(2), (*contracted, *features))
    bias = jnp.ones(features)
    rounded, scale = round_to_8_bits(kernel, tuple(range(inputs)), dtype)
    projection = Projection(features, inputs, round_activations=round_activations)
    stored = outputs_first(rounded, inputs)
    y = projection.apply({"params": {"kernel": stored, "kernel_scale": scale, "bias": bias}}, x)
    exact = jnp.tensordot(x, rounded.astype(jnp.float32) * scale[*[None] * inputs], inputs) + 1
    error = jnp.abs(y - exact).max(range(1, y.ndim)) / jnp.abs(exact).max(range(1, y.ndim))
    assert error.max() <= (3 * relative if round_activations else 1e-5)
    assert (error.max() > 1e-4) == round_activations


@pytest.mark.parametrize("round_activations", [False, True])
@pytest.mark.parametrize(("name", "dtype", "relative"), KINDS)
def test_a_quantized_transformer_is_close_and_small(name, dtype, relative, round_activations):
    """Every large kernel has one byte for each number, and the velocity changes by a few eight-bit
    steps.
    """
    config = dataclasses.replace(TOY.transformer, round_activations=round_activations)
    params = random_params(TOY, 0, jnp.float32)["transformer"]
    quantized = quantize_transformer(params, name)
    for path in QUANTIZED:
        part, layer = path.split("/")
        assert quantized["blocks"][part][layer]["kernel"].dtype == dtype
    inputs = (
        jax.random.normal(jax.random.key(3), (1, 3, 4, 6, 4)),
        jnp.full((1,), 500.0),
        jax.random.normal(jax.random.key(4), (1, 5, 16)),
    )
    apply = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    velocity = apply(HeliosTransformer(TOY.transformer).apply)({"params": params}, *inputs)
    rounded = apply(HeliosTransformer(config).apply)({"params": quantized}, *inputs)
    error = float(jnp.abs(rounded - velocity).max() / jnp.abs(velocity).max())
    print(name, round_activations, error)
    assert 1e-5 < error <= 4 * relative


def test_float8_between_kernels_is_what_passes_of_their_own_make(monkeypatch):
    """Rounded in the norms and scaled in the residuals, a velocity has the bits that it has where
    every projection rounds its input and scales its output itself.
    """
    config = dataclasses.replace(TOY.transformer, round_activations=True)
    params = random_params(TOY, 0, jnp.bfloat16)["transformer"]
    quantized = quantize_transformer(params, "fp8")
    separate = {**quantized, "blocks": separate_layers(quantized["blocks"])}
    inputs = (
        jax.random.normal(jax.random.key(3), (1, 3, 4, 6, 4)),
        jnp.full((1,), 500.0),
        jax.random.normal(jax.random.key(4), (1, 5, 16)),
    )
    model = HeliosTransformer(config, jnp.bfloat16)

    def run():
        # An optimized program keeps what is between fused operations in float32.
        options = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
        apply = jax.jit(lambda *args: model.apply(*args), compiler_options=options)
        return apply({"params": separate}, *inputs)

    ours = run()
    monkeypatch.setattr(Projection, "takes_quantized", lambda _: False)
    np.testing.assert_array_equal(ours, run())


def test_blocks_in_host_memory_are_quantized_there():
    """The same numbers, and the large kernels are in host memory as they were."""
    params = random_params(TOY, 0, jnp.float32)["transformer"]
    expected = quantize_transformer(params, "int8")
    found = quantize_transformer(blocks_in_host_memory(params), "int8")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found["blocks"]["ffn"]["up"]["kernel"].sharding.memory_kind == "pinned_host"


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_separate_blocks_are_quantized_layer_by_layer(name):
    """To the numbers of the stack."""
    params = random_params(TOY, 0, jnp.float32)["transformer"]
    separate = {**params, "blocks": separate_layers(params["blocks"])}
    found = quantize_transformer(separate, name)
    stacked = quantize_transformer(params, name)
    expected = {**stacked, "blocks": separate_layers(stacked["blocks"])}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_float8_kernel_is_stored_with_its_outputs_first():
    """So that a GPU's product of eight bits finds the contracted axis last; int8 is as it was."""
    params = random_params(TOY, 0, jnp.float32)["transformer"]
    layers, width, *heads = params["blocks"]["attn2"]["q"]["kernel"].shape
    for name, shape in (("fp8", (layers, *heads, width)), ("int8", (layers, width, *heads))):
        found = quantize_transformer(params, name)["blocks"]["attn2"]["q"]
        assert found["kernel"].shape == shape
        assert found["kernel_scale"].shape == (layers, *heads)
