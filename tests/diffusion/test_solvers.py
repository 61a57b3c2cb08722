"""Solvers on a Gaussian, where the exact solution is known, and what a solver may use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.diffusion import solvers
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.diffusion.solvers import (
    CORRECTED,
    DATA,
    FRESH,
    SolverTable,
    needs_noise,
    solver_step,
    solver_table,
    start_solver,
)

DEVIATION = 0.5
"""Of the Gaussian that stands for the data."""


def levels(steps: int) -> np.ndarray:
    """Noise levels from 0.999 to 0, evenly spaced: [steps + 1]."""
    return np.linspace(0.999, 0, steps + 1)


def variance(sigma: float) -> float:
    """Of (1 - sigma) data + sigma noise."""
    return (1 - sigma) ** 2 * DEVIATION**2 + sigma**2


def velocity(sample, sigma: float):
    """The exact velocity, E[noise - data | sample]."""
    return (sigma - (1 - sigma) * DEVIATION**2) / variance(sigma) * sample


def solve(solver: str, sigmas: np.ndarray, start, fresh=None):
    """The end point of a stage."""
    table = solver_table(solver, sigmas)
    state = start_solver(start)
    for i, sigma in enumerate(sigmas[:-1]):
        row = SolverTable(*(column[i] for column in table))
        noise = None if fresh is None else fresh[i]
        state = solver_step(state, velocity(state.sample, sigma), start, row, noise)
    return state.sample


def error(solver: str, steps: int) -> float:
    """Of the sample that starts one deviation from the mean, where it should end."""
    start = jnp.full((1, 1, 1, 1, 1), variance(0.999) ** 0.5)
    return abs(solve(solver, levels(steps), start).item() - DEVIATION)


@pytest.mark.parametrize("solver", ["unipc", "dpmpp_2m"])
def test_second_order_solvers_follow_a_gaussian_closely(solver):
    """With 20 steps they end within 0.01 of 0.5; Euler is further away than either."""
    assert error(solver, 20) < 0.01
    assert error(solver, 20) < error("euler", 20) / 2


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("dpmpp_2m", 2), ("unipc", 2)])
def test_errors_fall_with_the_order_of_the_solver(solver, order):
    """Four times as many steps: an error 4 times smaller at order 1, at least 10 times at order 2
    (16 in the limit; the last step has order 1).
    """
    ratio = error(solver, 40) / error(solver, 160)
    assert {1: 3.5, 2: 10}[order] < ratio < {1: 4.5, 2: 20}[order]


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_one_step_returns_the_predicted_data(solver):
    """Every solver ends at m_0 when its only step goes to noise level 0."""
    start = jnp.ones((1, 1, 1, 1, 1))
    expected = 1 - 0.999 * velocity(1.0, 0.999)
    np.testing.assert_allclose(solve(solver, levels(1), start).item(), expected, atol=1e-6)


def sde(sigmas: np.ndarray) -> solvers.Weights:
    """SDE-DPM-Solver++(1) (Lu et al. 2022, section 4): an example of a solver with fresh noise."""
    correct = np.tile([1.0, 0, 0, 0, 0], (len(sigmas) - 1, 1))
    predict = np.zeros((len(sigmas) - 1, 5))
    signal = (1 - sigmas) / np.maximum(sigmas, 1e-8)
    decay = signal[:-1] / signal[1:]  # exp(-h)
    predict[:, CORRECTED] = sigmas[1:] / sigmas[:-1] * decay
    predict[:, DATA] = (1 - sigmas[1:]) * (1 - decay**2)
    predict[:, FRESH] = sigmas[1:] * np.sqrt(1 - decay**2)
    return correct, predict


def test_a_solver_with_fresh_noise_is_a_table(monkeypatch):
    """Entered in the table, a stochastic solver runs, and its samples have the data's deviation."""
    monkeypatch.setattr(solvers, "SOLVERS", {**solvers.SOLVERS, "sde": sde})
    assert needs_noise("sde")
    assert not any(needs_noise(name) for name in ("unipc", "euler", "dmd", "dpmpp_2m"))
    sigmas = levels(100)
    start, *fresh = jax.random.normal(jax.random.key(0), (101, 1, 1, 1, 4096, 1))
    end = solve("sde", sigmas, start * variance(0.999) ** 0.5, fresh)
    np.testing.assert_allclose(end.std(), DEVIATION, rtol=0.05)
    assert abs(np.corrcoef(start.ravel(), end.ravel())[0, 1]) < 0.1  # the noise is used


def test_fresh_noise_is_drawn_for_every_step_and_leaves_the_other_draws_alone():
    """A chunk's draws are the same with it and without; each step has a draw of its own."""
    keys = jax.random.split(jax.random.key(1), 2)
    shape = (2, 4, 8, 3)
    plain = draw_chunk_noise(keys, 0, shape, 2, 1 / 3)
    fresh = draw_chunk_noise(keys, 0, shape, 2, 1 / 3, (3, 2))
    jax.tree.map(np.testing.assert_array_equal, plain, fresh._replace(steps=()))
    assert [noise.shape for noise in fresh.steps] == [(3, 2, 2, 2, 4, 3), (2, 2, 2, 4, 8, 3)]
    draws = [fresh.latents[0].ravel(), *fresh.steps[1][:, 0].reshape(2, -1)]
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.3
    alone = draw_chunk_noise(keys[1:], 0, shape, 2, 1 / 3, (3, 2))
    np.testing.assert_array_equal(alone.steps[0][:, 0], fresh.steps[0][:, 1])
