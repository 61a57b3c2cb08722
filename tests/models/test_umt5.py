"""What the text encoder promises besides the numbers of Transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.config import TextEncoderConfig
from helios_jax.models.umt5 import UMT5Encoder, encode_text

CONFIG = TextEncoderConfig(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=3, num_heads=2)
ENCODER = UMT5Encoder(CONFIG)


@pytest.fixture(scope="module")
def params():
    return jax.jit(ENCODER.init)(
        jax.random.key(0), jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    )["params"]


def padded(*prompts, length=512):
    ids = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(ids, prompts):
        row[: len(prompt)] = prompt
    return ids, np.array([len(prompt) for prompt in prompts], np.int32)


def test_parameter_tree(params):
    """Names and shapes that checkpoints are written with."""
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    assert shapes == {
        "token_embedding/embedding": (40, 16),
        "blocks/attention/qkv/kernel": (3, 16, 3, 2, 4),
        "blocks/attention/out/kernel": (3, 2, 4, 16),
        "blocks/attention/relative_attention_bias/embedding": (3, 32, 2),
        "blocks/attention_norm/scale": (3, 16),
        "blocks/ffn_norm/scale": (3, 16),
        "blocks/ffn/wi_0/kernel": (3, 16, 24),
        "blocks/ffn/wi_1/kernel": (3, 16, 24),
        "blocks/ffn/wo/kernel": (3, 24, 16),
        "final_norm/scale": (16,),
    }


def test_param_dtype_reaches_every_leaf():
    """A bfloat16 encoder holds no float32 parameter."""
    encoder = UMT5Encoder(CONFIG, jnp.bfloat16, jnp.bfloat16)
    tree = jax.eval_shape(
        encoder.init, jax.random.key(0), jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("tokens", "bucket"), [(1, 64), (60, 64), (61, 128), (200, 256), (510, 512), (512, 512)]
)
def test_prompts_are_padded_to_a_bucket(params, tokens, bucket):
    """The output is as long as the smallest bucket that holds the prompt."""
    features, lengths = encode_text(ENCODER, params, *padded(np.ones(tokens)))
    assert features.shape == (1, bucket, 16)
    assert lengths.tolist() == [tokens]


def test_a_bucket_gives_what_full_padding_gives(params):
    """A prompt encoded alone and beside a long one has the same features, and zeros after them."""
    prompt = np.arange(3, 23)
    alone, _ = encode_text(ENCODER, params, *padded(prompt))
    beside, _ = encode_text(ENCODER, params, *padded(prompt, np.full(300, 7)))
    np.testing.assert_allclose(beside[0, :20], alone[0, :20], rtol=0, atol=1e-5)
    assert not alone[0, 20:].any()
    assert not beside[0, 20:].any()


def test_padding_tokens_do_not_matter(params):
    """Whatever ids stand past the length, nothing changes."""
    ids, lengths = padded(np.arange(3, 23))
    noisy = np.where(np.arange(512) < lengths[:, None], ids, 9).astype(np.int32)
    np.testing.assert_array_equal(
        encode_text(ENCODER, params, ids, lengths)[0],
        encode_text(ENCODER, params, noisy, lengths)[0],
    )


def test_fresh_encoder_keeps_scores_of_order_one(params):
    """The initializer makes up for scores that are not divided by sqrt(d)."""
    q, k, _ = np.moveaxis(params["blocks"]["attention"]["qkv"]["kernel"], 2, 0)
    assert 0.5 < q.std() * k.std() * 16 * CONFIG.d_kv**0.5 < 2


def test_bad_ids_and_lengths_are_refused(params):
    """A vocabulary of another encoder, an empty row, a length beyond the ids."""
    with pytest.raises(ValueError, match="token id 40 is outside"):
        encode_text(ENCODER, params, *padded([40]))
    ids, lengths = padded([3])
    for wrong in (0, 513):
        with pytest.raises(ValueError, match=r"must lie in 1\.\.512"):
            encode_text(ENCODER, params, ids, np.full_like(lengths, wrong))
