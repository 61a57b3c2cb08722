"""The moving average of the weights: its decay and its update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.training import ema

GOLDEN = {
    1: 0,
    250: 0,
    251: 0,
    252: 0.181818,
    253: 0.25,
    260: 0.526316,
    351: 0.918182,
    1140: 0.989989,
    1141: 0.99,
    5000: 0.99,
}


@pytest.mark.parametrize(("n", "expected"), GOLDEN.items())
def test_the_decay_follows_the_published_list(n, expected):
    assert float(jax.jit(ema.decay, static_argnums=(1, 2))(n, 250, 0.99)) == pytest.approx(
        expected, abs=1e-6
    )


def test_until_the_average_begins_it_is_an_exact_copy_even_of_one_that_broke():
    weights = {"a": jnp.array([0.1, -3e-8, 7e7]), "b": {"c": jnp.float32(2)}}
    average = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), weights)
    copied = ema.update(average, weights, ema.decay(3, 250, 0.99))
    jax.tree.map(np.testing.assert_array_equal, copied, weights)


def test_an_average_of_constant_weights_stays_and_moves_by_one_minus_the_decay():
    average = ema.update({"a": jnp.float32(1)}, {"a": jnp.float32(3)}, jnp.float32(0.75))
    assert float(average["a"]) == 1.5
    same = ema.update(average, average, jnp.float32(0.99))
    assert float(same["a"]) == 1.5
