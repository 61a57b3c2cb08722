"""A run's folder becomes a checkpoint, or a LoRA."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint import CheckpointError, load_params, save
from helios_jax.checkpoint.params import random_params
from helios_jax.config import to_dict
from helios_jax.models.lora import merge
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import EMAConfig
from helios_jax.training.export import export_merged, read_config, read_weights
from helios_jax.training.step import init_state
from tests.toys import toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as train.py leaves it, with a checkpoint it began from whose scheduler is another,
    and the state of its last step.
    """
    folder = tmp_path_factory.mktemp("run")
    config = toy_config("pyramid", checkpoint=str(folder / "base"), ema=EMAConfig(decay=0.9))
    base = random_params(config.model, 3, jnp.float32)
    save(folder / "base", toy_config("flow").model, base)
    generator = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape) * 0.1, leaf.dtype)
    state = jax.tree.map(draw, jax.eval_shape(lambda: init_state(config, base["transformer"])))
    checkpoints = Checkpoints(folder / "run/checkpoints", to_dict(config))
    for step in (1, 2):
        checkpoints.save(step, state._replace(step=jnp.int32(step)))
    checkpoints.close()
    (folder / "run/config.json").write_text(json.dumps(to_dict(config)))
    return folder, config, base, state


def assert_equal_trees(found, expected):
    found = flatten_dict(found, sep="/")
    expected = flatten_dict(expected, sep="/")
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("ema", [True, False])
def test_the_weights_read_are_the_average_or_those_of_the_step(run, ema):
    folder, config, _, state = run
    assert read_config(folder / "run") == config
    step, weights = read_weights(folder / "run", ema=ema)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, weights, state.ema if ema else state.trainable)
    assert read_weights(folder / "run", step=1)[0] == 1


def test_a_run_that_began_with_random_weights_is_completed_from_another_checkpoint(run, tmp_path):
    folder, config, _, state = run
    config = dataclasses.replace(config, checkpoint="", seed=5)
    with pytest.raises(CheckpointError, match="began with random weights: --base names"):
        export_merged(config, state.trainable, tmp_path / "out")
    export_merged(config, state.trainable, tmp_path / "out", base=str(folder / "base"))
    own = random_params(config.model, 5, jnp.float32)["transformer"]
    assert_equal_trees(load_params(tmp_path / "out", "transformer"), merge(own, state.trainable))


def test_of_a_distillation_the_student_is_read(tmp_path):
    """Its critic trains beside it, and does not become a checkpoint."""
    config = toy_config("distillation")
    state = {"student": {"proj_out": {"lora_a": jnp.ones((2, 2))}}, "critic": {"a": jnp.zeros(2)}}
    checkpoints = Checkpoints(tmp_path / "checkpoints", to_dict(config))
    checkpoints.save(1, {"trainable": state})
    checkpoints.close()
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    step, weights = read_weights(tmp_path)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, weights, state["student"])
