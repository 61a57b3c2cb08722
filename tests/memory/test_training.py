"""The memory plan of a training step."""

import dataclasses

import jax
import pytest

from helios_jax.configs.train import stage1_init, stage2_init, stage3_gan, stage3_ode, stage3_post
from helios_jax.memory import compiler
from helios_jax.memory import training as memory
from helios_jax.memory.report import GIB, CompilerAbsentError, measure
from helios_jax.memory.training import estimate_step, plan_step, step_program
from tests.toys import toy_config


def test_arrays_are_counted_to_the_byte():
    """Frozen bfloat16 parameters; what trains and two moments in float32, and one more where it is
    averaged.
    """
    config = stage1_init.recipe()
    held = estimate_step(config).resident
    assert held["parameters that train"] == 4 * 647_756_800
    assert held["optimiser"] == pytest.approx(2 * held["parameters that train"], abs=64)
    averaged = dataclasses.replace(config, ema=dataclasses.replace(config.ema, decay=0.99))
    assert estimate_step(averaged).resident["moving average"] == held["parameters that train"]


def test_frozen_blocks_in_host_memory_leave_the_device():
    config = stage2_init.recipe()
    here, there = estimate_step(config), estimate_step(dataclasses.replace(config, offload=True))
    assert (
        there.host["frozen blocks"]
        == here.resident["frozen parameters"] - there.resident["frozen parameters"]
        > 25 * GIB
    )


def test_without_the_compiler_the_estimate_says_so(monkeypatch):
    def absent(*args):
        raise CompilerAbsentError("no compiler")

    monkeypatch.setattr(memory, "program_memory", absent)
    found = plan_step(toy_config(), "h100")
    assert "estimated by arithmetic (no compiler: pip install -e '.[plan]'" in found.source


@pytest.mark.slow
def test_stage_one_of_the_14b_model_trains_on_one_h100():
    """Two clips, adapters of rank 128: within 70 GiB as compiled for it, near the estimate."""
    if reason := compiler.unavailable():
        pytest.skip(reason)
    config = stage1_init.recipe()
    with jax.numpy_dtype_promotion("standard"):
        measured = measure(step_program(config), "h100")
    estimate = estimate_step(config)
    assert sum(estimate.resident.values()) == pytest.approx(measured.arguments, rel=0.001)
    assert measured.arguments + measured.working < 70 * GIB
    assert estimate.working["training step"] == pytest.approx(measured.working, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("module", [stage3_ode, stage3_post, stage3_gan])
def test_stage_three_of_the_14b_model_trains_on_one_h100(module):
    """Student, average, teacher and critic, with and without a discriminator: within 78 GiB as
    compiled for it.
    """
    if reason := compiler.unavailable():
        pytest.skip(reason)
    with jax.numpy_dtype_promotion("standard"):
        measured = measure(step_program(module.recipe()), "h100")
    assert measured.arguments + measured.working < 78 * GIB
