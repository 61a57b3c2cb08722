"""The transformer on a GPU, with its kernels, against the plain path."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from helios_jax.checkpoint.params import random_params
from helios_jax.config import HeliosConfig
from helios_jax.diffusion.history import frame_indices
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.types import History

SIZES = (16, 2, 1)
TEXT = dataclasses.replace(
    HeliosConfig().text_encoder, d_model=512, d_ff=512, num_layers=1, num_heads=8, vocab_size=64
)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("kernels", ["triton", "pallas"])
@pytest.mark.parametrize("attention", ["cudnn", "pallas"])
def test_transformer_with_kernels_is_the_plain_one(kernels, attention):
    """Three blocks of full width in bfloat16: with kernels, the deviation from the plain path in
    float32 is at most 1.2 times that of the plain path in bfloat16.
    """
    config = dataclasses.replace(HeliosConfig().transformer, num_layers=3, text_dim=512)
    whole = dataclasses.replace(HeliosConfig(), transformer=config, text_encoder=TEXT)
    params = random_params(whole, 0, jnp.float32)["transformer"]
    indices = frame_indices(SIZES, 9)
    history = History(
        short=draw(1, 1, 2, 24, 40, 16),
        mid=draw(2, 1, 2, 24, 40, 16),
        long=draw(3, 1, 16, 24, 40, 16),
    )
    inputs = draw(0, 1, 9, 24, 40, 16), jnp.full((1,), 500.0), draw(4, 1, 128, 512), history

    def run(dtype, kernels, attention):
        named = dataclasses.replace(config, kernels=kernels, attention=attention)
        model = HeliosTransformer(named, dtype)
        apply = jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs, indices))
        return apply(params, *inputs).astype(jnp.float32)

    with jax.default_matmul_precision("highest"):
        exact = run(jnp.float32, "xla", "xla")

    def deviation(velocity):
        return float(jnp.square(velocity - exact).mean() ** 0.5)

    plain = deviation(run(jnp.bfloat16, "xla", "xla"))
    ours = deviation(run(jnp.bfloat16, kernels, attention))
    assert ours <= 1.2 * plain
