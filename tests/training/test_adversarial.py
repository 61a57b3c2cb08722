"""The discriminator: what it sees, its losses, and where its gradient goes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.config import TransformerConfig
from helios_jax.diffusion.noise import mix
from helios_jax.models.discriminator import Discriminator
from helios_jax.training import adversarial
from helios_jax.training.config import AdversarialConfig
from helios_jax.training.trainable import count

TOY = TransformerConfig(num_attention_heads=1, attention_head_dim=8, rope_dim=(4, 2, 2))
PUBLISHED = AdversarialConfig(width=768, hooks=(5, 15, 25, 35))


def test_the_published_heads_have_as_many_parameters():
    """One on the velocity, four on tokens of 5120 channels."""
    heads = jax.eval_shape(
        lambda key: adversarial.init_heads(key, PUBLISHED, TransformerConfig()), jax.random.key(0)
    )
    assert [count(heads[f"head_{i}"]) for i in range(5)] == [113_002_753, *[218_839_297] * 4]
    assert count(heads) == 988_359_941


def test_the_students_loss_is_small_where_it_is_taken_for_data_and_the_critics_where_it_is_not():
    generated = jnp.full((2, 5), 3.0)
    data = jnp.full((2, 5), -2.0)
    softplus = lambda x: np.log1p(np.exp(x))
    assert float(adversarial.student_loss(generated)) == pytest.approx(softplus(3), rel=1e-6)
    assert float(adversarial.critic_loss(generated, data)) == pytest.approx(
        softplus(-3) + softplus(-2), rel=1e-6
    )
    assert adversarial.student_loss(generated) > adversarial.student_loss(data)
    assert adversarial.critic_loss(generated, data) < adversarial.critic_loss(data, generated)


def test_the_penalty_is_the_mean_square_of_the_change():
    data = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), jnp.float32)
    assert float(adversarial.penalty(data, data)) == 0
    assert float(adversarial.penalty(data, data + 0.5)) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ((48, 80), (1, 2, 2), (24, 40)),
        ((22, 36), (1, 2, 2), (10, 18)),
        ((8, 16), (1, 2, 2), (8, 8)),
        ((12, 4), (1, 2, 2), (8, 4)),
    ],
)
def test_a_window_is_half_of_each_side_in_whole_patches_and_four_or_all(size, patch, expected):
    assert adversarial.window_size(*size, patch) == expected


@pytest.mark.parametrize("patches", [(1, 1), (2, 5), (4, 4), (7, 12)])
def test_heads_have_a_logit_for_every_patch_grid(patches):
    heads = adversarial.init_heads(jax.random.key(0), AdversarialConfig(width=32, hooks=(0,)), TOY)
    velocity = jnp.ones((1, 9, 2 * patches[0], 2 * patches[1], TOY.out_channels))
    tokens = jnp.ones((1, 9, *patches, TOY.width))
    logits = Discriminator(32).apply({"params": heads}, velocity, [tokens])
    assert logits.shape == (1, 2)
    assert jnp.isfinite(logits).all()


def test_windows_lie_inside_and_everywhere():
    """Corners of many samples; a window is what stands at its corner."""
    shape = (2, 16, 24, 1)
    draw = functools.partial(adversarial.draw_adversarial, shape=shape, patch=(1, 2, 2))
    corners = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 500)).corner)
    assert set(corners[:, 0]) == set(range(9))
    assert set(corners[:, 1]) == set(range(13))
    x = np.arange(np.prod((2, *shape)), dtype=np.float32).reshape(2, *shape)
    cut = adversarial.crop(jnp.asarray(x), jnp.array([[8, 12], [0, 3]]), (8, 12))
    np.testing.assert_array_equal(cut, np.stack([x[0, :, 8:, 12:], x[1, :, :8, 3:15]]))


def test_the_cotangent_comes_back_through_window_and_noise():
    """In float64, of a discriminator that is a sum of products: (1 - sigma) softplus'(logit) w /
    samples inside each window, 0 outside.
    """
    with jax.enable_x64():
        random = np.random.default_rng(0)
        x, noise = (jnp.asarray(values) for values in random.standard_normal((2, 2, 3, 8, 8, 2)))
        weight = jnp.asarray(random.standard_normal((3, 4, 4, 2)))
        sigma = jnp.array([0.3, 0.8])
        corner = jnp.array([[1, 4], [3, 0]])

        def logits(x):
            noisy = mix(x, noise, sigma[:, None, None, None, None])
            window = adversarial.crop(noisy, corner, (4, 4))
            return jnp.einsum("bthwc,thwc->b", window, weight)[:, None]

        gradient = np.asarray(jax.grad(lambda x: adversarial.student_loss(logits(x)))(x))
        slope = (1 - sigma) / (1 + np.exp(-np.asarray(logits(x))[:, 0])) / 2
        expected = np.zeros_like(gradient)
        expected[0, :, 1:5, 4:8] = slope[0] * weight
        expected[1, :, 3:7, 0:4] = slope[1] * weight
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)
