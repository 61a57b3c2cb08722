"""helios-jax export: a run's folder becomes a checkpoint or adapters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint import load_config, load_params, save
from helios_jax.checkpoint.params import random_params
from helios_jax.commands.export import main
from helios_jax.config import to_dict
from helios_jax.models.lora import merge
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import EMAConfig
from helios_jax.training.step import init_state
from tests.toys import toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as a run leaves it, and the parameters it began with."""
    folder = tmp_path_factory.mktemp("export")
    config = toy_config("pyramid", checkpoint=str(folder / "base"), ema=EMAConfig(decay=0.9))
    base = random_params(config.model, 3, jnp.float32)
    save(folder / "base", config.model, base)
    generator = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape) * 0.1, leaf.dtype)
    state = jax.tree.map(draw, jax.eval_shape(lambda: init_state(config, base["transformer"])))
    checkpoints = Checkpoints(folder / "run/checkpoints", to_dict(config))
    checkpoints.save(2, state._replace(step=jnp.int32(2)))
    checkpoints.close()
    (folder / "run/config.json").write_text(json.dumps(to_dict(config)))
    return folder / "run", config, base, state


def test_it_writes_the_merged_checkpoint_and_replaces_none_unasked(run, tmp_path, capsys):
    folder, config, base, state = run
    arguments = ["helios-jax export", f"--run={folder}", f"--out={tmp_path / 'out'}"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}: step 2 of {folder}\n"
    assert load_config(tmp_path / "out") == config.model
    found = flatten_dict(load_params(tmp_path / "out", "transformer"), sep="/")
    expected = flatten_dict(merge(base["transformer"], state.ema), sep="/")
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path, capsys):
    assert main(["helios-jax export", f"--run={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
