"""Schedules and solvers follow the tables and the trajectories of the Diffusers schedulers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeliosDMDScheduler, HeliosScheduler

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.schedules import make_noise_schedule, shift_tokens, stage_tables
from helios_jax.diffusion.solvers import SolverTable, solver_step, solver_table, start_solver

from .compare import relative_error

BASE = SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
MID = SchedulerConfig()
EULER = SchedulerConfig(solver="euler")
DISTILLED = SchedulerConfig(solver="dmd", time_shift_type="linear")
GAMMA = SchedulerConfig(gamma=0.5, stage_range=(0.0, 0.25, 0.6, 1.0))
UNSHIFTED = SchedulerConfig(use_dynamic_shifting=False, shift=3.0)
CONFIGS = {
    "base": BASE,
    "mid": MID,
    "euler": EULER,
    "distilled": DISTILLED,
    "other gamma and range": GAMMA,
    "static shift": UNSHIFTED,
}


def diffusers_scheduler(config: SchedulerConfig):
    """The Diffusers scheduler of a configuration."""
    common = dict(
        stages=config.stages,
        stage_range=list(config.stage_range),
        gamma=config.gamma,
        shift=config.shift,
        use_dynamic_shifting=config.use_dynamic_shifting,
        time_shift_type=config.time_shift_type,
    )
    if config.solver == "dmd":
        return HeliosDMDScheduler(**common)
    return HeliosScheduler(scheduler_type=config.solver, **common)


def mu(config, tokens):
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    return tokens * slope + config.base_shift - slope * config.base_image_seq_len


def set_timesteps(scheduler, config, stage, steps, tokens, amplify=False):
    sigmas = np.linspace(0.999, 0.0, steps + 1)[:-1] if config.stages == 1 else None
    extra = {"is_amplify_first_chunk": amplify} if config.solver == "dmd" else {}
    scheduler.set_timesteps(steps, stage, sigmas=sigmas, mu=mu(config, tokens), **extra)


@pytest.mark.parametrize("name", CONFIGS)
def test_stage_tables_equal_diffusers(name):
    """Start, end and original sigmas, and each stage's timesteps, agree to 1e-9."""
    config = CONFIGS[name]
    scheduler = diffusers_scheduler(config)
    for stage, table in enumerate(stage_tables(config)):
        np.testing.assert_allclose(table.start_sigma, scheduler.start_sigmas[stage], rtol=1e-9)
        np.testing.assert_allclose(
            table.original_start_sigma, scheduler.ori_start_sigmas[stage], rtol=1e-9
        )
        np.testing.assert_allclose(table.end_sigma, scheduler.end_sigmas[stage], rtol=1e-9)
        np.testing.assert_allclose(table.timesteps, scheduler.timesteps_per_stage[stage], rtol=1e-9)
        np.testing.assert_allclose(table.sigmas, scheduler.sigmas_per_stage[stage], rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 50])
@pytest.mark.parametrize("name", CONFIGS)
def test_schedules_equal_diffusers(name, steps):
    """Sigmas and the network's timesteps agree to 1e-9 at every stage."""
    config = CONFIGS[name]
    scheduler = diffusers_scheduler(config)
    for stage, tokens in zip(range(config.stages), (540, 540, 2160)):
        set_timesteps(scheduler, config, stage, steps, tokens)
        ours = make_noise_schedule(config, stage, steps, tokens)
        np.testing.assert_allclose(ours.sigmas, scheduler.sigmas, rtol=1e-9, atol=1e-15)
        expected = scheduler.timesteps.numpy()
        if config.stages > 1:
            expected = np.trunc(expected)
        np.testing.assert_allclose(ours.timesteps, expected, rtol=1e-9)


def test_first_distilled_chunk_doubles_the_steps():
    """An amplified chunk of m steps has the schedule of a chunk of 2m steps."""
    scheduler = diffusers_scheduler(DISTILLED)
    for stage, tokens in enumerate((540, 540, 2160)):
        set_timesteps(scheduler, DISTILLED, stage, 2, tokens, amplify=True)
        ours = make_noise_schedule(DISTILLED, stage, 4, tokens)
        np.testing.assert_allclose(ours.sigmas, scheduler.sigmas, rtol=1e-9, atol=1e-15)


def test_released_distilled_timesteps():
    """The timesteps of the released few-step model at 384 x 640, printed by HeliosDMDScheduler with
    mu of 540, 540, 2160 tokens.
    """
    tokens = [540, 2160, 8640]
    schedules = [
        make_noise_schedule(DISTILLED, k, 2, shift_tokens(DISTILLED, k, tokens)) for k in range(3)
    ]
    assert [list(s.timesteps) for s in schedules] == [[998, 833], [742, 512], [385, 174]]
    np.testing.assert_allclose(schedules[2].sigmas, [0.9987841492, 0.4512399300, 0], rtol=1e-9)


def test_shift_by_own_stage():
    """The original implementation shifts each stage by its own tokens: 0.65743603 instead of
    0.45123993 at the last stage.
    """
    config = SchedulerConfig(solver="dmd", time_shift_type="linear", shift_tokens="own_stage")
    schedule = make_noise_schedule(config, 2, 2, shift_tokens(config, 2, [540, 2160, 8640]))
    np.testing.assert_allclose(schedule.sigmas, [0.99947869, 0.65743603, 0], rtol=1e-7)


def trajectory(config, stage, steps, sample, drift):
    """Our solver on the toy velocity v(x, t) = drift x + t / 1000."""
    schedule = make_noise_schedule(config, stage, steps, 540)
    table = solver_table(config.solver, schedule.sigmas)
    state = start_solver(jnp.asarray(sample))
    for i, timestep in enumerate(schedule.timesteps):
        velocity = drift * state.sample + np.float32(timestep / 1000)
        state = solver_step(
            state, velocity, jnp.asarray(sample), SolverTable(*(column[i] for column in table))
        )
    return state.sample


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 50])
@pytest.mark.parametrize("name", ["base", "mid", "euler", "distilled"])
def test_trajectories_equal_diffusers(name, steps):
    """On a toy velocity, whole trajectories of Euler, UniPC and DMD steps agree to 1e-5."""
    config = CONFIGS[name]
    drift = np.float32(0.7)
    sample = np.random.default_rng(0).standard_normal((1, 2, 4, 6, 3)).astype(np.float32)
    for stage in range(config.stages):
        scheduler = diffusers_scheduler(config)
        set_timesteps(scheduler, config, stage, steps, 540)
        x = start = torch.from_numpy(sample)
        for i, t in enumerate(scheduler.timesteps):
            timestep = t.trunc() if config.stages > 1 else t
            velocity = float(drift) * x + float(timestep) / 1000
            extra = {}
            if config.solver == "dmd":
                extra = dict(
                    cur_sampling_step=i,
                    dmd_noisy_tensor=start,
                    dmd_sigmas=scheduler.sigmas,
                    dmd_timesteps=scheduler.timesteps,
                    all_timesteps=scheduler.timesteps,
                )
            x = scheduler.step(velocity, t, x, return_dict=False, **extra)[0]
        assert relative_error(trajectory(config, stage, steps, sample, drift), x) <= 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 50])
def test_dpm_solver_equals_diffusers(steps):
    """On a toy velocity, DPM-Solver++(2M) agrees to 1e-5 with Diffusers' scheduler of that name,
    given our noise levels.
    """
    drift = np.float32(0.7)
    config = dataclasses.replace(BASE, solver="dpmpp_2m")
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        final_sigmas_type="zero",
    )
    schedule = make_noise_schedule(config, 0, steps, 540)
    scheduler.num_inference_steps = steps
    scheduler.sigmas = torch.from_numpy(schedule.sigmas)
    scheduler.timesteps = torch.from_numpy(schedule.timesteps)
    sample = np.random.default_rng(0).standard_normal((1, 2, 4, 6, 3)).astype(np.float32)
    x = torch.from_numpy(sample)
    for timestep in scheduler.timesteps:
        velocity = float(drift) * x + float(timestep) / 1000
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
    assert relative_error(trajectory(config, 0, steps, sample, drift), x) <= 1e-5
