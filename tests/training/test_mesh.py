"""A step on several devices, with batches and parameters spread over them, is the step on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MESHES = ((1, 1), (2, 1), (2, 2), (4, 2))


def compare() -> dict[str, dict[str, float]]:
    """For each mesh, how far loss, gradient and updated weights are from those on one device; runs
    where there are 8 devices.
    """
    import dataclasses

    import jax
    import numpy as np
    import optax
    from flax.traverse_util import flatten_dict
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from helios_jax.data.batches import DataConfig
    from helios_jax.parallel.mesh import DATA, FSDP, place_batch, tree_shardings
    from helios_jax.training.flow import make_loss
    from helios_jax.training.step import init_state, make_step
    from helios_jax.training.trainable import frozen
    from tests.toys import toy_batch, toy_config, toy_params, warm

    config = toy_config(data=DataConfig(batch_size=8, text_rows=8))
    transformer = dataclasses.replace(
        config.model.transformer, num_layers=1
    )  # four programs are compiled
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, transformer=transformer)
    )
    params = toy_params(config)
    state = init_state(config, params)
    base = frozen(params, config.trainable)
    state = state._replace(trainable=warm(state.trainable))
    step = make_step(make_loss(config), config)
    found = {}
    for data, fsdp in MESHES:
        mesh = Mesh(np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp), (DATA, FSDP))
        places = tree_shardings(state, mesh)
        run = jax.jit(step, out_shardings=(places, NamedSharding(mesh, PartitionSpec())))
        after, metrics = run(
            jax.device_put(state, places),
            jax.device_put(base, tree_shardings(base, mesh)),
            place_batch(toy_batch(config), mesh),
        )
        spread = [leaf for leaf in jax.tree.leaves(after.trainable) if not leaf.is_fully_replicated]
        assert (len(spread) > 10) == (fsdp > 1)
        moments = optax.tree_utils.tree_get(after.optimizer, "mu")  # linear in the gradient
        found[data, fsdp] = jax.device_get(
            {"loss": metrics["loss"], "gradient": moments, "weights": after.trainable}
        )

    def distance(ours, theirs):
        return float(
            np.linalg.norm(np.asarray(ours, np.float64) - theirs)
            / np.linalg.norm(np.asarray(theirs, np.float64))
        )

    def worst(part, mesh):
        ours, theirs = (flatten_dict({"": found[at][part]}) for at in (mesh, MESHES[0]))
        return max(distance(leaf, theirs[path]) for path, leaf in ours.items())

    return {str(mesh): {part: worst(part, mesh) for part in found[mesh]} for mesh in MESHES[1:]}


@pytest.mark.slow
def test_loss_gradient_and_weights_are_the_same_on_any_mesh():
    """1, 2, 4 and 8 devices, data x fsdp; every leaf to 1e-5 of its norm."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    script = (
        "import json; from tests.training.test_mesh import compare; print(json.dumps(compare()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr
    distances = json.loads(done.stdout.splitlines()[-1])
    print(distances)
    assert set(distances) == {str(mesh) for mesh in MESHES[1:]}
    assert max(value for mesh in distances.values() for value in mesh.values()) <= 1e-5
