"""The name tables describe the trees that the models have."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint.layout import leaves
from helios_jax.checkpoint.names import text_encoder_slots, transformer_slots, vae_slots
from helios_jax.config import TextEncoderConfig, TransformerConfig, VAEConfig
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.umt5 import UMT5Encoder
from helios_jax.models.vae import VAE
from helios_jax.types import FrameIndices, History

from .tiny import CONFIG


def shapes(model, *inputs):
    params = jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs), *inputs)[
        "params"
    ]
    return {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}


def described(slots):
    return {path: slot.leaf_shape for path, slot in leaves(slots).items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_amplify_history": True},
        {"is_amplify_history": True, "history_scale_mode": "scalar"},
    ],
)
@pytest.mark.parametrize("config", [CONFIG.transformer, TransformerConfig()], ids=["toy", "14B"])
def test_transformer(config, options):
    config = dataclasses.replace(config, **options)
    C = config.in_channels
    history = History(*(jnp.zeros((1, frames, 8, 8, C)) for frames in (2, 2, 16)))
    indices = FrameIndices((20,), (0, 19), (17, 18), tuple(range(1, 17)))
    inputs = (jnp.zeros((1, 1, 8, 8, C)), jnp.zeros(1), jnp.zeros((1, 3, config.text_dim)), history)
    model = HeliosTransformer(config)
    assert shapes(Bound(model, indices), *inputs) == described(transformer_slots(config))


class Bound:
    """A model with its static frame indices."""

    def __init__(self, model, indices):
        self.model = model
        self.indices = indices

    def init(self, key, *inputs):
        return self.model.init(key, *inputs, self.indices)


@pytest.mark.parametrize("config", [CONFIG.vae, VAEConfig()], ids=["toy", "Wan 2.1"])
def test_vae(config):
    assert shapes(VAE(config), jnp.zeros((1, 5, 16, 16, 3))) == described(vae_slots(config))


@pytest.mark.parametrize(
    "config", [CONFIG.text_encoder, TextEncoderConfig()], ids=["toy", "umt5-xxl"]
)
def test_text_encoder(config):
    assert shapes(
        UMT5Encoder(config), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    ) == described(text_encoder_slots(config))
