"""The recipes of helios-nano are runs of a small model whose dynamic shifts are the large one's."""

import importlib

import jax
import numpy as np
import pytest

from helios_jax.config import SchedulerConfig
from helios_jax.configs.nano._model import PYRAMID
from helios_jax.diffusion.schedules import dynamic_shift
from helios_jax.training.abstract import abstract_run
from helios_jax.training.objectives import find_objective
from helios_jax.training.trainable import count

LIMITS = {"transformer": 4.5e6, "vae": 3.5e6, "text_encoder": 1.5e6}
"""Parameters."""


@pytest.mark.parametrize(
    "name", ["vae_images", "vae", "text", "t2i", "t2v", "base", "mid", "ode", "distilled"]
)
def test_a_recipe_is_a_run_of_a_small_model(name):
    """Something trains, and the component it trains is small."""
    config = importlib.import_module(f"helios_jax.configs.nano.{name}").recipe()
    state, base, batch = abstract_run(config)
    objective = find_objective(config)
    component = objective.component
    models = 4 if objective.student_key else 1  # student, teacher, critic, its heads
    assert 0 < count(state.trainable) + count(base) < models * LIMITS[component]
    assert all(leaf.shape[0] == config.data.batch_size for leaf in jax.tree.leaves(batch))
    assert config.model.vae.latents_std == (1.0,) * config.model.vae.z_dim


@pytest.mark.parametrize(("tokens", "mu"), [(540, 0.548), (2160, 0.822), (8640, 1.919)])
def test_a_thirtieth_of_the_tokens_has_the_shift_of_the_large_model(tokens, mu):
    """Noise level 1/2 becomes s / (s + 1), s being the exponential of what is compared."""
    middle = np.array([0.5])
    large = dynamic_shift(SchedulerConfig(), middle, tokens)
    small = dynamic_shift(PYRAMID, middle, tokens // 30)
    assert np.log(large / (1 - large)) == pytest.approx(mu, abs=1e-3)
    np.testing.assert_allclose(small, large, rtol=1e-12)


def test_a_step_of_distilled_has_the_discriminator():
    """Its windows are found in frames of 64 x 128, and each of its heads says something of them."""
    config = importlib.import_module("helios_jax.configs.nano.distilled").recipe()
    state, frozen, batch = abstract_run(config)
    step = find_objective(config).make_step(config)
    after, metrics = jax.eval_shape(step, state, frozen, batch)
    assert {"student_adversarial_loss", "critic_adversarial_loss", "critic_penalty"} <= set(metrics)
    assert len(after.trainable["critic"]["heads"]) == 1 + len(config.distillation.adversarial.hooks)
