"""What a request becomes: chunks, steps and guidance."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from helios_jax.config import HeliosConfig, SampleConfig, from_dict
from helios_jax.diffusion.drift import DriftControl
from helios_jax.sampling.geometry import reference_frames
from helios_jax.sampling.request import (
    RequestError,
    RequestFields,
    make_request,
    request_fields,
)

from .conftest import TOY

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
    """A chunk is 33 frames; Diffusers returns the largest 4m + 1 of whole chunks: 97 for 99."""
    config = preset("helios_distilled")
    request = make_request(config, num_frames=asked)
    assert (request.chunks, request.frames_per_chunk, request.num_frames) == (chunks, 33, asked)
    assert reference_frames(config, asked) == returned


def test_callers_can_name_every_field():
    """The names that a type checker knows are the request's fields."""
    assert set(RequestFields.__annotations__) == {field.name for field in request_fields()}


def test_a_request_comes_back_from_json():
    """Equal, with every field changed from its default."""
    changed = dict(
        batch=2,
        num_frames=70,
        height=128,
        width=64,
        steps=(3, 2, 1),
        guidance_scale=2.5,
        guidance_interval=(0.2, 0.9),
        cfg_zero_star=True,
        zero_init_steps=1,
        negative_prompt="grey",
        solver="dpmpp_2m",
        shift=3.0,
        use_dynamic_shifting=False,
        time_shift_type="exponential",
        shift_tokens="own_stage",
        base_image_seq_len=128,
        max_image_seq_len=2048,
        base_shift=0.6,
        max_shift=1.2,
        amplify_first_chunk=False,
        skip_first_chunk=True,
        seed=7,
        image_noise=(0.1, 0.2),
        video_noise=(0.3, 0.4),
        image_history="window",
        drift=DriftControl(strength=0.3),
        adapters=("paint.safetensors:0.5 (0123456789abcdef)",),
    )
    request = make_request(TOY, **changed)
    plain = make_request(TOY)
    for field in request_fields():
        assert getattr(request, field.name) != getattr(plain, field.name), field.name
    again = make_request(TOY, **json.loads(json.dumps(request.arguments())))
    assert again == request


def test_how_a_checkpoint_is_sampled_is_the_callers():
    """Solver and shifts reach the scheduler, guidance and steps the plan; what differs from the
    configuration is told.
    """
    config = preset("helios_mid")
    request = make_request(config, solver="dpmpp_2m", max_shift=1.3, steps=8, cfg_zero_star=False)
    assert (request.scheduler.solver, request.scheduler.max_shift) == ("dpmpp_2m", 1.3)
    assert (request.plan.steps, request.plan.zero_init_steps) == ((8, 8, 8), 0)
    told = {name: (there, here) for name, there, here in request.sampler_differences(config)}
    assert told == {
        "solver": ("unipc", "dpmpp_2m"),
        "max_shift": (1.15, 1.3),
        "steps": ((20, 20, 20), (8, 8, 8)),
        "cfg_zero_star": (True, False),
    }
    assert make_request(config, seed=3, num_frames=99).sampler_differences(config) == []


def test_another_request_is_checked_again():
    """By dataclasses.replace, too; what follows from its fields follows."""
    request = dataclasses.replace(make_request(TOY), num_frames=70)
    assert request.chunks == 3
    with pytest.raises(RequestError, match="num_frames=-1 must be at least 1"):
        dataclasses.replace(request, num_frames=-1)


def test_steps_that_zero_init_leaves_without_effect_are_told():
    """Of Mid with two steps a stage, the whole coarsest stage."""
    config = dataclasses.replace(
        HeliosConfig(),
        sample=SampleConfig(steps=(20, 20, 20), cfg_zero_star=True, zero_init_steps=2),
    )
    assert make_request(config).advice == []
    [line] = make_request(config, steps=2).advice
    assert "zero_init_steps=2 leaves all 2 steps of the first stage without an effect" in line
    assert make_request(config, steps=2, cfg_zero_star=False).advice == []
