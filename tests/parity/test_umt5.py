"""The UMT5 encoder computes what that of Transformers does."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from helios_jax.config import TextEncoderConfig
from helios_jax.models.umt5 import UMT5Encoder, encode_text, relative_position_buckets
from tests.parity.torch_weights_umt5 import umt5_params_from_torch

CONFIG = TextEncoderConfig(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=6)


@pytest.fixture(scope="module")
def theirs():
    """A random encoder of Transformers, with larger weights than at initialization, so that
    attention is far from uniform and the bias matters.
    """
    torch.manual_seed(0)
    sizes = {
        name: getattr(CONFIG, name)
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    }
    model = UMT5EncoderModel(UMT5Config(**sizes, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_table = any(part in name for part in ("norm", "bias", "shared"))
            scale = 1.0 if is_table else weight.shape[1] ** -0.5
            weight.copy_(torch.randn_like(weight) * scale)
    return model


def prompts(length):
    """Two prompts of which the second is padded."""
    ids = np.random.default_rng(0).integers(3, CONFIG.vocab_size, (2, length), dtype=np.int32)
    lengths = np.array([length, length // 3], np.int32)
    return np.where(np.arange(length) < lengths[:, None], ids, 0), lengths


def expected(model, ids, lengths):
    """The features of Transformers, zeroed past each prompt's length, as float32."""
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths)[:, None]
    with torch.no_grad():
        features = model(torch.from_numpy(ids).long(), attention_mask=mask.long()).last_hidden_state
    return (features * mask[..., None]).float().numpy()


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max()


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("length", [21, 300])
def test_features_match_with_padding_and_far_buckets(theirs, length):
    """In float32, short and past the distance where the buckets end."""
    ids, lengths = prompts(length)
    params = umt5_params_from_torch(theirs.state_dict(), CONFIG)
    features, _ = encode_text(UMT5Encoder(CONFIG), params, ids, lengths)
    assert relative_error(features[:, :length], expected(theirs, ids, lengths)) <= 1e-5


def test_bfloat16_is_as_close_to_float32_as_that_of_transformers_is(theirs):
    """With bfloat16 weights and computation, our distance from these weights' float32 features is
    no larger than that of Transformers.
    """
    ids, lengths = prompts(300)
    rounded = copy.deepcopy(theirs).to(torch.bfloat16)
    features = expected(rounded, ids, lengths)
    exact = expected(copy.deepcopy(rounded).float(), ids, lengths)
    params = umt5_params_from_torch(rounded.state_dict(), CONFIG)
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), params)
    ours, _ = encode_text(UMT5Encoder(CONFIG, jnp.bfloat16, jnp.bfloat16), params, ids, lengths)
    assert ours.dtype == jnp.bfloat16
    distance = rms(ours[:, :300].astype(jnp.float32) - exact)
    assert distance <= rms(features - exact) < 0.01 * rms(exact)


def test_buckets_match_at_every_distance(theirs):
    """Distances up to 512 tokens both ways, the edges of buckets included."""
    attention = theirs.encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(512)[None, :] - torch.arange(512)[:, None]
    expected = attention._relative_position_bucket(offset).numpy()
    np.testing.assert_array_equal(relative_position_buckets(512, 32, 128), expected)
