"""What a request becomes: chunks, steps and guidance."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from helios_jax.config import HeliosConfig, from_dict
from helios_jax.sampling.request import make_request, reference_frames

CONFIGS = Path(__file__).parents[2] / "configs"


def preset(name):
    return from_dict(HeliosConfig, runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]())


def test_released_samplers():
    """Base: 50 steps, guided. Mid: CFG-Zero* with two zero steps. Distilled: twice the steps in the
    first chunk, no guidance, linear shift.
    """
    base, mid, distilled = (preset(f"helios_{name}") for name in ("base", "mid", "distilled"))
    assert [config.scheduler.time_shift_type for config in (base, mid, distilled)] == [
        "exponential",
        "exponential",
        "linear",
    ]
    base, mid, distilled = map(make_request, (base, mid, distilled))
    assert (base.plan.steps, base.plan.guided, base.plan.cfg_zero_star) == ((50,), True, False)
    assert (mid.plan.steps, mid.plan.guided, mid.plan.cfg_zero_star, mid.plan.zero_init_steps) == (
        (20, 20, 20),
        True,
        True,
        2,
    )
    assert (distilled.plan.steps, distilled.first_plan.steps, distilled.plan.guided) == (
        (2, 2, 2),
        (4, 4, 4),
        False,
    )
    assert base.first_plan == base.plan
    assert mid.first_plan == mid.plan


def test_guidance_asked_of_a_distilled_model_is_given():
    assert make_request(preset("helios_distilled"), guidance_scale=2.0).plan.guided


def test_only_a_distilled_sampler_amplifies():
    config = preset("helios_mid")
    config = dataclasses.replace(
        config, sample=dataclasses.replace(config.sample, amplify_first_chunk=True)
    )
    assert make_request(config).first_plan.steps == (20, 20, 20)


@pytest.mark.parametrize(
    ("asked", "chunks", "returned"),
    [(1, 1, 33), (33, 1, 33), (34, 2, 65), (99, 3, 97), (132, 4, 129), (1452, 44, 1449)],
)
def test_frames_of_whole_chunks_and_of_the_reference(asked, chunks, returned):
    """A chunk is 33 frames; the reference returns the largest 4m + 1 of whole chunks: 97 for 99."""
    config = preset("helios_distilled")
    request = make_request(config, num_frames=asked)
    assert (request.chunks, request.frames_per_chunk, request.num_frames) == (chunks, 33, asked)
    assert reference_frames(config, asked) == returned
