"""The table of objectives: adding one is a file and an entry, and an unknown name fails at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.config import ConfigError, from_dict, to_dict
from helios_jax.memory.training import estimate_step
from helios_jax.training import flow
from helios_jax.training.abstract import abstract_run
from helios_jax.training.config import TrainConfig
from helios_jax.training.denoising import make_denoising_loss
from helios_jax.training.flops import level_tokens
from helios_jax.training.objectives import OBJECTIVES, find_objective
from helios_jax.training.step import descend_on
from tests.toys import toy_batch, toy_config, toy_model, toy_params


def still_targets(batch, config):
    """A flow that learns no noise level but the greatest."""
    batch = flow.make_targets(batch, config)
    targets = [
        target._replace(timestep=jnp.full_like(target.timestep, 1000.0)) for target in batch.targets
    ]
    return batch._replace(targets=targets)


def refuse_dropout(config):
    if config.caption_dropout:
        raise ConfigError("caption_dropout is not for stills")


def test_adding_an_objective_is_one_entry_of_the_table(monkeypatch):
    """Recipe, checks, memory plan, cost and step take it; nothing else knows its name."""
    objective = flow.OBJECTIVE._replace(
        make_targets=still_targets,
        make_step=descend_on(lambda config: make_denoising_loss(still_targets, config)),
        check=refuse_dropout,
    )
    monkeypatch.setitem(OBJECTIVES, "stills", objective)
    config = toy_config("stills", model=toy_model("flow"))
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert find_objective(config) is objective
    with pytest.raises(ConfigError, match="caption_dropout is not for stills"):
        find_objective(dataclasses.replace(config, caption_dropout=0.5))
    assert estimate_step(config).resident["batch"] > 0
    state, frozen, batch = abstract_run(config)
    assert objective.cost(config, state.trainable, batch).operations > 0

    params = toy_params(config)
    state = objective.init_state(config, params)
    frozen = objective.frozen_params(config, params)
    step = jax.jit(objective.make_step(config))
    after, metrics = step(state, frozen, toy_batch(config))
    assert np.isfinite(metrics["loss"])
    assert int(after.step) == 1


def test_an_unknown_name_fails_where_it_is_given():
    with pytest.raises(ConfigError, match="objective='stills' is unknown; there are flow, pyr"):
        find_objective(toy_config("stills"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_counts_all_levels_of_its_recipe(name):
    """A level that is not counted would make operations and memory wrong without a word."""
    config = toy_config(name)
    objective = OBJECTIVES[name]
    if objective.component == "transformer":
        _, noisy = level_tokens(config, (9, 8, 16), objective.levels(config))
        assert len(noisy) == sum(objective.levels(config))
    assert objective.items(config) >= 1


def test_levels_of_another_pyramid_are_refused():
    with pytest.raises(ValueError, match=r"levels=\(1,\) must have a number for each of the 3"):
        level_tokens(toy_config("pyramid"), (9, 8, 16), (1,))
