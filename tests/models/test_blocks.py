"""The stack of blocks: scanned, optionally rematerialized."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint.params import random_params
from helios_jax.kernels.dispatch import UnsupportedError
from helios_jax.models.transformer import HeliosTransformer

from ..sampling.conftest import TOY


def make(batch=2, **changes):
    """A toy transformer, its variables, and inputs without history."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    config = dataclasses.replace(TOY, transformer=dataclasses.replace(TOY.transformer, **changes))
    inputs = normal(batch, 3, 4, 6, 4), jnp.full((batch,), 500.0), normal(batch, 5, 16)
    params = random_params(config, 0, jnp.float32)["transformer"]
    return HeliosTransformer(config.transformer), {"params": params}, inputs


@pytest.mark.slow
def test_rematerialization_changes_neither_value_nor_gradient():
    """With remat a block is computed again in the backward pass, and that is all."""

    def loss_and_gradient(remat):
        model, variables, inputs = make(remat=remat)

        def loss(variables):
            return jnp.square(model.apply(variables, *inputs)).mean()

        return jax.jit(jax.value_and_grad(loss))(variables)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    results = [loss_and_gradient(remat) for remat in (None, "blocks", "attention", "products")]
    for other in results[1:]:
        jax.tree.map(close, results[0], other)
    assert np.any(results[0][1]["params"]["blocks"]["attn1"]["qkv"]["kernel"])


def test_kept_products_are_not_computed_again():
    """With remat="products" a step multiplies by weights as often as without remat."""
    counts = {}
    for remat in (None, "products", "blocks"):
        model, variables, inputs = make(remat=remat)

        def loss(variables, model=model, inputs=inputs):
            return jnp.square(model.apply(variables, *inputs)).mean()

        lines = jax.jit(jax.grad(loss)).lower(variables).as_text().splitlines()
        products = [line for line in lines if "stablehlo.dot_general" in line]
        counts[remat] = sum("batching_dims" not in line for line in products)
    assert counts["products"] == counts[None] < counts["blocks"]


def test_compile_time_does_not_grow_with_depth():
    """Blocks are scanned: the program of 12 layers is as long as that of 4."""
    sizes = []
    for layers in (4, 12):
        model, variables, inputs = make(num_layers=layers)
        sizes.append(len(jax.jit(model.apply).lower(variables, *inputs).as_text().splitlines()))
    assert sizes[0] == sizes[1]


def test_latents_that_do_not_divide_into_patches_are_refused():
    model, variables, _ = make()
    inputs = jnp.zeros((1, 3, 5, 6, 4)), jnp.zeros((1,)), jnp.zeros((1, 5, 16))
    message = "latents of 3 x 5 x 6 do not divide into patches of 1 x 2 x 2"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, variables, *inputs)


def test_an_unknown_attention_is_refused_when_the_model_is_made():
    """Before any parameter is loaded, with the names there are."""
    config = dataclasses.replace(TOY.transformer, attention="flash")
    with pytest.raises(
        UnsupportedError, match="no implementation 'flash'; there are cudnn, pallas"
    ):
        HeliosTransformer(config)
