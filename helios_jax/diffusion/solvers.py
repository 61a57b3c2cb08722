"""Solvers as tables: Euler, UniPC (order 2, bh2) and the few-step DMD rule are one weighted sum
with different weights.

With data prediction m_i = x_i - sigma_i v_i, step i of every solver is

    corrected = C_i · (x_i, last, m_{i-2}, m_{i-1}, m_i)
    x_{i+1}   = P_i · (corrected, m_{i-1}, m_i, start)

where ``last`` is the corrected sample of the step before and ``start`` the sample the stage began
with. The weights are float64 functions of the sigmas alone, so they are computed before a step
runs, and a step in the graph is two sums.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from helios_jax.types import Array, Float


class SolverTable(NamedTuple):
    """Weights of every step of one stage: [M], [M, 5], [M, 4]; indexing all three gives a step's
    row.
    """

    sigma: np.ndarray
    correct: np.ndarray
    predict: np.ndarray


class SolverState(NamedTuple):
    """What a solver carries from step to step; a stage starts afresh.

    Attributes:
      sample: x_i.
      last: corrected sample of the previous step.
      older, newer: data predictions m_{i-2} and m_{i-1}.
    """

    sample: Float[Array, "B T H W C"]
    last: Float[Array, "B T H W C"]
    older: Float[Array, "B T H W C"]
    newer: Float[Array, "B T H W C"]


def start_solver(sample: Float[Array, "B T H W C"]) -> SolverState:
    """The state before the first step."""
    return SolverState(sample, *(jnp.zeros_like(sample),) * 3)


def solver_step(
    state: SolverState,
    velocity: Float[Array, "B T H W C"],
    start: Float[Array, "B T H W C"],
    row: SolverTable,
) -> SolverState:
    """One step, in the sample's dtype.

    Args:
      state: of the solver.
      velocity: the network's output at ``state.sample``.
      start: the sample the stage began with.
      row: this step's row of the table.
    """
    data = state.sample - row.sigma * velocity.astype(state.sample.dtype)
    corrected = _weighted_sum(row.correct, state.sample, state.last, state.older, state.newer, data)
    sample = _weighted_sum(row.predict, corrected, state.newer, data, start)
    return SolverState(sample, corrected, state.newer, data)


def solver_table(solver: str, sigmas: np.ndarray) -> SolverTable:
    """The float32 weights of ``solver`` ("unipc", "euler" or "dmd") for noise levels ``sigmas`` [M
    + 1].
    """
    correct, predict = {"unipc": _unipc, "euler": _euler, "dmd": _dmd}[solver](
        np.asarray(sigmas, np.float64)
    )
    return SolverTable(
        *(np.asarray(table, np.float32) for table in (sigmas[:-1], correct, predict))
    )


def _euler(sigmas: np.ndarray):
    """x' = x + (sigma' - sigma) v, with v written as (x - m) / sigma."""
    ratio = sigmas[1:] / sigmas[:-1]
    zero = np.zeros_like(ratio)
    return _no_correction(len(ratio)), np.stack([ratio, zero, 1 - ratio, zero], axis=-1)


def _dmd(sigmas: np.ndarray):
    """x' = (1 - sigma') m + sigma' start: the predicted data, noised again along the stage's own
    path (Helios, few-step sampling).
    """
    following = sigmas[1:]
    zero = np.zeros_like(following)
    return _no_correction(len(following)), np.stack([zero, zero, 1 - following, following], axis=-1)


def _unipc(sigmas: np.ndarray):
    """UniPC with B(h) = expm1(h), data prediction, order 2 and lower order at the end (Zhao et al.
    2023, Algorithms 5 to 8).
    """
    steps = len(sigmas) - 1
    alpha, sigma = 1 - sigmas, np.maximum(sigmas, 1e-8)
    lam = np.log(alpha) - np.log(sigma)
    correct, predict = _no_correction(steps), np.zeros((steps, 4))
    for i in range(steps):
        if i > 0:
            h = lam[i] - lam[i - 1]
            step = alpha[i] * np.expm1(-h)
            if i == 1:  # the predictor before this had order 1
                older, data = 0.0, 0.5
            else:
                r = (lam[i - 2] - lam[i - 1]) / h
                b1, b2 = _phi_ratios(h)
                older = (b1 - b2) / (1 - r)
                data, older = b1 - older, older / r
            correct[i] = (
                0,
                sigma[i] / sigma[i - 1],
                -step * older,
                -step * (1 - older - data),
                -step * data,
            )
        h = lam[i + 1] - lam[i]
        step = alpha[i + 1] * np.expm1(-h)
        second_order = 0 < i < steps - 1
        slope = 0.5 * h / (lam[i - 1] - lam[i]) if second_order else 0.0
        predict[i] = sigma[i + 1] / sigma[i], -step * slope, -step * (1 - slope), 0
    return correct, predict


def _phi_ratios(h: float) -> tuple[float, float]:
    """phi_2(-h) / B and 2 phi_3(-h) / B, the right-hand side of the order conditions of a two-term
    corrector.
    """
    e = np.expm1(-h)
    phi1 = e / -h - 1
    phi2 = phi1 / -h - 0.5
    return phi1 / e, 2 * phi2 / e


def _no_correction(steps: int) -> np.ndarray:
    """Weights that take the sample as it is."""
    return np.tile([1.0, 0, 0, 0, 0], (steps, 1))


def _weighted_sum(weights, *terms):
    """The sum of ``terms``, each times its weight."""
    return sum(weights[i] * term for i, term in enumerate(terms))
