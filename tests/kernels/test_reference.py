"""The plain versions take bfloat16, compute in float32 and round once; the accuracy of a bfloat16
transformer rests on that.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.kernels.attention import attention
from helios_jax.kernels.residual_norm import (
    gated_residual,
    layer_norm,
    modulated_layer_norm,
    rms_norm,
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X, Y = (normal(seed, 2, 5, 24).astype(jnp.bfloat16) for seed in (0, 1))
ROWS = normal(2, 2, 2, 24)  # weights are float32 whatever the activations are
WEIGHT = normal(3, 24)
OPERATIONS = {
    "layer norm": lambda x, y: layer_norm(x, WEIGHT, WEIGHT, eps=1e-6),
    "rms norm": lambda x, y: rms_norm(x, WEIGHT, eps=1e-6),
    "modulated layer norm": lambda x, y: modulated_layer_norm(x, ROWS, ROWS, history=2, eps=1e-6),
    "gated residual": lambda x, y: gated_residual(x, y, ROWS, history=2),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bfloat16_is_rounded_once(operation):
    """The result is the float32 result of the same numbers, rounded."""
    run = OPERATIONS[operation]
    ours = run(X, Y)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        ours, run(X.astype(jnp.float32), Y.astype(jnp.float32)).astype(jnp.bfloat16)
    )


def test_attention_of_bfloat16_has_float32_logits():
    """Logits of 128 and 128.25, which bfloat16 cannot tell apart, weigh values differently."""

    def row(*channels):
        return jnp.array(channels, jnp.bfloat16).reshape(1, 1, 1, 4)

    key = jnp.concatenate([row(16, 0, 0, 0), row(16, 0.5, 0, 0)], axis=1)
    value = jnp.concatenate([row(0, 0, 0, 0), row(1, 1, 1, 1)], axis=1)
    ours = attention(row(16, 1, 0, 0), key, value)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), 1 / (1 + np.exp(-0.25)), rtol=0.005)
