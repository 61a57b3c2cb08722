"""Going on with a video in another process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from helios_jax.config import to_dict
from helios_jax.sampling.prompts import PromptEntry, PromptSchedule
from helios_jax.sampling.state import save_state

from .conftest import TOY

SCHEDULE = PromptSchedule.of([PromptEntry("a red ball", 2), PromptEntry("two blue squares", 4, 3)])

RESUME = """
import json, sys
import numpy as np
from helios_jax import HeliosPipeline
from helios_jax.config import HeliosConfig, from_dict
from helios_jax.sampling.state import load_state

config, folder = sys.argv[1:]
pipeline = HeliosPipeline.random(from_dict(HeliosConfig, json.loads(config)))
state = load_state(f"{folder}/state.safetensors")
np.save(f"{folder}/rest.npy", np.concatenate(list(pipeline.resume(state)), axis=1))
"""


@pytest.mark.slow
def test_three_chunks_and_three_in_a_new_process_are_six_in_one(pipeline, tmp_path):
    """Bit for bit, on a CPU, in frames; the state of the third chunk is all that the other process
    is given.
    """
    states = []
    whole = pipeline.generate(SCHEDULE, seed=5, on_chunk=lambda record: states.append(record.state))
    save_state(tmp_path / "state.safetensors", states[2])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    subprocess.run(
        [sys.executable, "-c", RESUME, json.dumps(to_dict(TOY)), tmp_path],
        env=environment,
        check=True,
    )
    rest = np.load(tmp_path / "rest.npy")
    assert rest.shape == (1, 99, 64, 128, 3)
    np.testing.assert_array_equal(rest, whole[:, 99:])
