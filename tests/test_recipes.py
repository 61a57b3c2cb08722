"""The recipes of configs/: each is a dataclass, and the ConfigDict of it."""

import importlib

import pytest

from helios_jax.commands.cli import recipes
from helios_jax.config import HeliosConfig, from_dict, to_dict
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import find_objective


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_a_dataclass_that_its_config_dict_gives_back(name):
    module = importlib.import_module(f"helios_jax.configs.{name.replace('/', '.')}")
    recipe = module.recipe()
    kind = type(recipe)
    assert kind in (HeliosConfig, TrainConfig)
    assert from_dict(kind, module.get_config()) == recipe
    assert from_dict(kind, to_dict(recipe)) == recipe
    if kind is TrainConfig:
        find_objective(recipe)
