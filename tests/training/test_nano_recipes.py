"""The recipes of helios-nano are runs of one small model whose dynamic shifts are the large one's."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from helios_jax.config import SchedulerConfig, from_dict
from helios_jax.diffusion.schedules import dynamic_shift
from helios_jax.training.abstract import abstract_run
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import OBJECTIVES
from helios_jax.training.trainable import count

ROOT = Path(__file__).parents[2]
LIMITS = {"transformer": 4.5e6, "vae": 3.5e6, "text_encoder": 1.5e6}
"""Parameters."""


@pytest.mark.parametrize(
    "name", ["vae_images", "vae", "text", "t2i", "t2v", "base", "mid", "ode", "distilled"]
)
def test_a_recipe_is_a_run_of_a_small_model(name, monkeypatch):
    """It loads strictly, something trains, and the part it trains is small."""
    monkeypatch.syspath_prepend(ROOT)
    config = from_dict(TrainConfig, importlib.import_module(f"configs.nano.{name}").get_config())
    state, base, batch = abstract_run(config)
    component = OBJECTIVES[config.objective].component
    models = 4 if config.objective == "distillation" else 1  # student, teacher, critic, its heads
    assert 0 < count(state.trainable) + count(base) < models * LIMITS[component]
    assert all(leaf.shape[0] == config.data.batch_size for leaf in jax.tree.leaves(batch))
    assert config.model.vae.latents_std == (1.0,) * 16


@pytest.mark.parametrize(("tokens", "mu"), [(540, 0.548), (2160, 0.822), (8640, 1.919)])
def test_a_thirtieth_of_the_tokens_has_the_shift_of_the_large_model(tokens, mu, monkeypatch):
    """Noise level 1/2 becomes s / (s + 1), s being the exponential of what is compared."""
    monkeypatch.syspath_prepend(ROOT)
    nano, middle = importlib.import_module("configs.nano._model").PYRAMID, np.array([0.5])
    large, small = (
        dynamic_shift(SchedulerConfig(), middle, tokens),
        dynamic_shift(nano, middle, tokens // 30),
    )
    assert np.log(large / (1 - large)) == pytest.approx(mu, abs=1e-3)
    np.testing.assert_allclose(small, large, rtol=1e-12)
