"""What the transformer promises beside equality with PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.config import TransformerConfig
from helios_jax.models.transformer import HeliosTransformer

TOY = TransformerConfig(
    num_attention_heads=2, attention_head_dim=12, rope_dim=(4, 4, 4), in_channels=4, out_channels=4, text_dim=16, ffn_dim=32, num_layers=3
)


def make(config=TOY, batch=2):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    inputs = normal(batch, 3, 4, 6, 4), jnp.full((batch,), 500.0), normal(batch, 5, 16)
    model = HeliosTransformer(config)
    return model, dict(model.init(jax.random.key(0), *inputs)), inputs


def test_rematerialisation_changes_neither_value_nor_gradient():
    """With remat a block is computed again in the backward pass, and that is all."""
    model, variables, inputs = make()
    results = []
    for remat in (False, True):
        loss = jax.jit(
            jax.value_and_grad(
                lambda variables: jnp.square(HeliosTransformer(dataclasses.replace(TOY, remat=remat)).apply(variables, *inputs)).mean()
            )
        )
        results.append(loss(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(results[0][1]["params"]["blocks"]))


def test_compile_time_does_not_grow_with_depth():
    """Blocks are scanned: the program of 12 layers is as long as that of 4."""
    sizes = []
    for layers in (4, 12):
        model, variables, inputs = make(dataclasses.replace(TOY, num_layers=layers))
        sizes.append(len(jax.jit(model.apply).lower(variables, *inputs).as_text().splitlines()))
    assert sizes[0] == sizes[1]


def test_latents_that_do_not_divide_into_patches_are_refused():
    model, variables, _ = make()
    with pytest.raises(ValueError, match="latents of 3 x 5 x 6 do not divide into patches of 1 x 2 x 2"):
        model.apply(variables, jnp.zeros((1, 3, 5, 6, 4)), jnp.zeros((1,)), jnp.zeros((1, 5, 16)))
