"""States of videos, saved by this version and by earlier ones."""

from pathlib import Path

import numpy as np
import pytest

from helios_jax.diffusion.drift import DriftControl
from helios_jax.sampling.prompts import PromptChange
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.sampling.state import load_state, save_state

FIRST_FORMAT = Path(__file__).parent / "state_1.safetensors"
"""Of the toy pipeline after the first of two chunks, a blend under way, drift controlled. It was
saved when states had some arguments of ``stream`` in the place of a request.
"""


def test_a_state_of_the_first_format_has_its_request():
    """What it does not say is what its configuration says."""
    state = load_state(FIRST_FORMAT)
    assert state.request == make_request(
        state.request.config,
        batch=1,
        num_frames=66,
        height=64,
        width=64,
        seed=5,
        drift=DriftControl(mean_threshold=0.0),
    )
    assert state.request.solver == "dmd"
    assert state.request.first_plan.steps == (2, 2, 2)
    assert state.chunk == 1
    red = "a red ball rolls over green grass"
    assert state.prompts.changes == (
        PromptChange(0, (red,)),
        PromptChange(1, ("two blue squares",), 2),
    )
    assert state.history.window.shape == (1, 19, 8, 8, 4)
    assert state.history.anchored


def test_a_state_of_the_first_format_goes_on(pipeline, tmp_path):
    """And goes on alike once it is saved in the present one."""
    state = load_state(FIRST_FORMAT)
    [rest] = pipeline.resume(state, output="latent")
    save_state(tmp_path / "state.safetensors", state)
    [again] = pipeline.resume(load_state(tmp_path / "state.safetensors"), output="latent")
    assert rest.shape == (1, 9, 8, 8, 4)
    np.testing.assert_array_equal(rest, again)


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_file_that_is_no_state_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(
        RequestError, match=r"state\.safetensors cannot be read as the saved state of a video"
    ):
        load_state(tmp_path / "state.safetensors")
