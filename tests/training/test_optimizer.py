"""Muon: what it does to matrices, whichever way a kernel holds them, and what it leaves to AdamW;
AdamW without momentum.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helios_jax.checkpoint.params import abstract_params
from helios_jax.training.optimizer import OptimizerConfig, make_optimizer, matrices
from tests.toys import toy_config

CONFIG = OptimizerConfig(method="muon", learning_rate=1.0, weight_decay=0.0, clip_norm=0.0)


def first_update(params, seed=0):
    """The first update of random gradients."""
    rng = np.random.default_rng(seed)
    gradients = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), params
    )
    optimizer = make_optimizer(CONFIG)
    return gradients, optimizer.update(gradients, optimizer.init(params), params)[0]


@pytest.mark.parametrize(
    ("module", "shape", "unfold"),
    [
        ("linear", (6, 10), lambda k: [k]),
        ("conv", (3, 2, 2, 4, 8), lambda k: [k.reshape(-1, 8)]),
        (
            "blocks/attn1/qkv",
            (2, 6, 3, 2, 4),
            lambda k: [k[i, :, j].reshape(6, 8) for i in range(2) for j in range(3)],
        ),
        ("blocks/attn1/out", (2, 2, 4, 6), lambda k: [k[i].reshape(8, 6) for i in range(2)]),
        ("time_proj", (6, 6, 8), lambda k: [k[:, j] for j in range(6)]),
    ],
)
def test_every_matrix_moves_along_the_orthogonal_factor_of_its_own_gradient(module, shape, unfold):
    """Newton-Schulz leaves singular values near 1, and the directions are those of the gradient;
    sizes are 0.2 a root mean square entry.
    """
    params = {"kernel": jnp.zeros(shape)}
    for part in reversed(module.split("/")):
        params = {part: params}
    gradients, updates = first_update(params)
    for gradient, update in zip(
        *(unfold(np.asarray(jax.tree.leaves(tree)[0])) for tree in (gradients, updates))
    ):
        u, _, vt = np.linalg.svd(gradient, full_matrices=False)
        inner = u.T @ -update @ vt.T / (0.2 * max(update.shape) ** 0.5)
        np.testing.assert_allclose(np.diag(inner), 1, atol=0.35)
        np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=0.02)


def test_all_that_is_no_kernel_moves_as_by_adamw():
    """With Nesterov's momentum, as matrices do."""
    params = {
        "blocks": {"norm": {"scale": jnp.zeros((2, 6))}},
        "linear": {"bias": jnp.zeros(5)},
        "token": {"embedding": jnp.zeros((7, 3))},
    }
    gradients, updates = first_update(params)
    adamw = optax.adamw(1.0, CONFIG.b1, CONFIG.b2, CONFIG.eps, weight_decay=0.0, nesterov=True)
    with jax.numpy_dtype_promotion("standard"):
        expected = adamw.update(gradients, adamw.init(params), params)[0]
    jax.tree.map(lambda e, u: np.testing.assert_allclose(u, e, rtol=1e-6), expected, updates)


def test_no_kernel_of_the_model_is_left_out_or_cut_across():
    """Rows and columns of every kernel's matrices, counted out, are the kernel's size."""
    params = abstract_params(toy_config("flow").model, jnp.float32, jnp.float32)

    def check(path, leaf, axes):
        assert (axes is None) == (path[-1].key != "kernel")
        if axes:
            counted = sorted(axes.reduction_axis + axes.output_axis)
            assert len(set(counted)) == len(counted)
            assert axes.output_axis[-1] == leaf.ndim - 1
            assert leaf.ndim - len(counted) <= 2

    for part in params.values():
        axes = matrices(part)
        jax.tree_util.tree_map_with_path(check, part, axes)


def test_without_momentum_steps_are_those_of_adamw_and_gradients_are_not_kept():
    """Three steps with ``b1`` 0."""
    config = OptimizerConfig(b1=0.0, b2=0.9, learning_rate=0.1, weight_decay=0.01, clip_norm=0.0)
    ours = make_optimizer(config)
    theirs = optax.adamw(0.1, 0.0, 0.9, config.eps, weight_decay=0.01)
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.ones((3, 4))}
    state = ours.init(params)
    expected_state = theirs.init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 12 + 2
    for _ in range(3):
        gradient = {"kernel": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)}
        updates, state = ours.update(gradient, state, params)
        with jax.numpy_dtype_promotion("standard"):
            expected, expected_state = theirs.update(gradient, expected_state, params)
        np.testing.assert_allclose(updates["kernel"], expected["kernel"], rtol=1e-6)
        params = optax.apply_updates(params, updates)
