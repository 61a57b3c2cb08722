"""Going up and down the pyramid keeps noise what it says it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.diffusion.pyramid import (
    block_noise,
    downsample_noise,
    renoise,
    renoise_weights,
    upsample,
)

X = np.random.default_rng(0).standard_normal((2, 3, 8, 12, 4)).astype(np.float32)


def test_downsampling_is_pytorchs_bilinear_halving_times_two():
    """Guards against an antialiased resize, and against a mean without its factor."""
    frames = torch.from_numpy(X.reshape(6, 8, 12, 4)).permute(0, 3, 1, 2)
    expected = F.interpolate(frames, size=(4, 6), mode="bilinear").permute(0, 2, 3, 1) * 2
    np.testing.assert_allclose(
        downsample_noise(jnp.asarray(X)).reshape(6, 4, 6, 4), expected, atol=1e-6
    )


def test_upsampling_is_pytorchs_nearest():
    """Each cell is repeated, not smoothed."""
    frames = torch.from_numpy(X.reshape(6, 8, 12, 4)).permute(0, 3, 1, 2)
    expected = F.interpolate(frames, size=(16, 24), mode="nearest").permute(0, 2, 3, 1)
    np.testing.assert_array_equal(upsample(jnp.asarray(X)).reshape(6, 16, 24, 4), expected)


@pytest.mark.parametrize("gamma", [1 / 3, 0.2])
def test_block_noise_has_the_covariance_asked_for(gamma):
    """The map from independent to correlated noise is an exact square root: its square is (1 +
    gamma) I - gamma 11ᵀ, singular at 1/3.
    """
    unit = jnp.eye(4, dtype=jnp.float32).reshape(4, 1, 2, 2, 1)
    root = np.asarray(block_noise(unit, gamma)).reshape(4, 4)
    np.testing.assert_allclose(root.T @ root, (1 + gamma) * np.eye(4) - gamma, atol=1e-6)


def test_renoised_start_point_is_white():
    """Repeated cells plus block noise have no correlation left inside a block: sigma² off the
    diagonal cancels.
    """
    s, gamma = 0.666333, 1 / 3
    alpha, beta = renoise_weights(s, gamma)
    np.testing.assert_allclose([alpha, beta], [0.6001201440528393, 0.6926122274238059], rtol=1e-12)
    np.testing.assert_allclose(alpha**2 * s**2 - beta**2 * gamma, 0, atol=1e-12)
    start = renoise(jnp.asarray(X), jnp.zeros((2, 3, 16, 24, 4)), s, gamma)
    np.testing.assert_allclose(start, alpha * upsample(jnp.asarray(X)), rtol=1e-6)


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    """Seeds 3 and 4 drawn together are what each draws alone; seeds, chunks and stages differ."""
    keys = jax.vmap(jax.random.key)(jnp.array([3, 4]))
    quick = {"xla_backend_optimization_level": 1}  # most of the time goes to the compiler
    draw = jax.jit(
        lambda keys, chunk: draw_chunk_noise(keys, chunk, (9, 8, 8, 4), 3, 1 / 3),
        compiler_options=quick,
    )
    both, alone, other = draw(keys, 1), draw(keys[1:], 1), draw(keys, 2)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b), both, alone)
    assert [block.shape for block in both.blocks] == [(2, 9, 4, 4, 4), (2, 9, 8, 8, 4)]
    correlation = lambda a, b: abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert all(
        correlation(a, b) < 0.1 for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(other))
    )
    assert all(correlation(*leaf) < 0.1 for leaf in jax.tree.leaves(both))
    assert correlation(both.latents, both.blocks[1]) < 0.1
