"""Adapters change nothing at first; beside the kernels and folded into them they give the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint.params import abstract_params
from helios_jax.config import HeliosConfig
from helios_jax.diffusion.history import frame_indices
from helios_jax.models.lora import (
    LINEARS,
    adaptable,
    adapter_product,
    combine,
    init_adapters,
    merge,
)
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.types import History
from tests.toys import LATENT, TRANSFORMER, toy_config, toy_params, warm

SIZES = (16, 2, 1)


@functools.partial(jax.jit, static_argnames="model")
def velocity(model, params):
    """The velocity of some latents, with history and text."""
    T, *cells = LATENT

    def normal(seed, *shape):
        return jax.random.normal(jax.random.key(seed), shape)

    latents = normal(0, 1, T, *cells)
    timestep = jnp.array([500.5])
    text = normal(4, 1, 6, model.config.text_dim)
    history = History(normal(1, 1, 2, *cells), normal(2, 1, 2, *cells), normal(3, 1, 16, *cells))
    indices = frame_indices(SIZES, T)
    return model.apply({"params": params}, latents, timestep, text, history, indices)


@pytest.fixture(scope="module")
def adapters():
    """Parameters, and adapters of all modules."""
    params = toy_params(toy_config())
    return params, init_adapters(jax.random.key(0), params, adaptable(params, ".*"), 3)


@pytest.mark.slow
def test_new_adapters_change_nothing_and_warm_ones_give_the_same_when_merged(adapters):
    """Bit for bit while B is 0; to 1e-5 of the largest value when not, through every linear layer
    and every convolution.
    """
    model = HeliosTransformer(TRANSFORMER)
    params, new = adapters
    plain = velocity(model, params)
    np.testing.assert_array_equal(velocity(model, combine(params, new)), plain)
    used = warm(new)
    found = velocity(model, combine(params, used))
    merged = velocity(model, merge(params, used))
    assert np.abs(found - plain).max() > 0.1 * np.abs(plain).max()
    assert np.abs(found - merged).max() <= 1e-5 * np.abs(merged).max()


def test_adapters_of_parts_are_products_of_their_own():
    """Value and gradients of q, k and v, whose adapters are one product in the forward pass."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (2, 5, 6))
    a = jax.random.normal(keys[1], (6, 3, 2))
    b = jax.random.normal(keys[2], (3, 2, 4, 2))
    outer = jax.random.normal(keys[3], (2, 5, 24))

    def apart(x, a, b):
        parts = [x @ a[:, part] @ b[part].reshape(2, 8) for part in range(3)]
        return jnp.concatenate(parts, axis=-1)

    def joint(x, a, b):
        return adapter_product(x, a, b, 1, jnp.float32)

    ours, theirs = (jax.vjp(f, x, a, b) for f in (joint, apart))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for our, their in zip(ours[1](outer), theirs[1](outer), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


def test_merged_parameters_have_the_tree_and_the_dtypes_of_the_base(adapters):
    """Leaves that train in full take their place, rounded to the dtype of what they replace."""
    params, new = adapters
    stored = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    whole = {"patch_long": {"bias": jnp.full_like(params["patch_long"]["bias"], 1.001)}}
    merged = merge(stored, combine(new, whole))
    assert jax.eval_shape(lambda: merged) == jax.eval_shape(lambda: stored)
    bias = whole["patch_long"]["bias"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(merged["patch_long"]["bias"], bias)
    kernels = (tree["blocks"]["attn1"]["qkv"]["kernel"] for tree in (merged, stored))
    np.testing.assert_array_equal(*kernels)


def test_first_factors_have_deviation_one_over_rank_and_are_each_modules_own(adapters):
    """Whatever other modules have adapters."""
    params, new = adapters
    flat = flatten_dict(new, sep="/")
    factors = [leaf.ravel() for path, leaf in flat.items() if path.endswith("lora_a")]
    values = np.concatenate(factors)
    assert values.std() == pytest.approx(1 / 3, rel=0.02)
    assert not any(np.any(leaf) for path, leaf in flat.items() if path.endswith("lora_b"))
    alone = init_adapters(jax.random.key(0), params, ["blocks/ffn/up"], 3)
    np.testing.assert_array_equal(
        alone["blocks"]["ffn"]["up"]["lora_a"], flat["blocks/ffn/up/lora_a"]
    )
    assert len(np.unique(values)) > 0.99 * len(values)


def test_the_linears_are_the_406_of_the_released_geometry():
    """Counted as PyTorch has them, q, k and v apart; patches are asked for by name, and norms are
    never adapted.
    """
    params = abstract_params(HeliosConfig(), jnp.float32)["transformer"]
    parts = {"blocks/attn1/qkv": 3, "blocks/attn2/kv": 2}
    modules = adaptable(params, LINEARS)
    count = 0
    for module in modules:
        layers = 40 if module.startswith("blocks/") else 1
        count += layers * parts.get(module, 1)
    assert count == 406
    patches = {"patch_embedding", "patch_short", "patch_mid", "patch_long"}
    assert set(adaptable(params, ".*")) - set(modules) == patches
    assert adaptable(params, "blocks/ffn/.*", "blocks/ffn/up") == ["blocks/ffn/down"]
