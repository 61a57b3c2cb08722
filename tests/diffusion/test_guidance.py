"""Guidance formulas."""

import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.guidance import guide, guide_zero_star

RNG = np.random.default_rng(0)
POSITIVE, NEGATIVE = (
    jnp.asarray(RNG.standard_normal((2, 3, 4, 5, 6)), jnp.float32) for _ in range(2)
)


def test_scale_one_is_the_positive_velocity():
    np.testing.assert_allclose(guide(POSITIVE, NEGATIVE, 1.0), POSITIVE, atol=1e-6)


def test_zero_star_projects_each_sample_apart():
    """a u + g (c - a u) with a = <c, u> / <u, u> over one sample, not over the batch."""
    for c, u, ours in zip(POSITIVE, NEGATIVE, guide_zero_star(POSITIVE, NEGATIVE, 5.0)):
        a = np.vdot(c, u) / np.vdot(u, u)
        np.testing.assert_allclose(ours, a * u + 5 * (c - a * u), rtol=1e-4, atol=1e-5)


def test_zero_star_multiplies_in_float32():
    """Of bfloat16 velocities the inner product is exact where products rounded to bfloat16 would
    cancel to 0.
    """
    p, u = (
        jnp.array(values, jnp.bfloat16).reshape(1, 1, 1, 1, 2)
        for values in ([1 + 2**-7, -(1 + 2**-6)], [1 + 2**-7, 1.0])
    )
    a = 2**-14 / ((1 + 2**-7) ** 2 + 1)
    np.testing.assert_allclose(
        guide_zero_star(p, u, 0.0).astype(jnp.float32), a * u.astype(jnp.float32), rtol=0.01
    )
