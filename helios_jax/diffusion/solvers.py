"""Solvers as tables: every solver is the same weighted sum with weights of its own.

With data prediction m_i = x_i - sigma_i v_i, step i of every solver is

    corrected = C_i · (x_i, last, m_{i-2}, m_{i-1}, m_i)
    x_{i+1}   = P_i · (corrected, m_{i-1}, m_i, start, fresh)

where ``last`` is the corrected sample of the step before, ``start`` the sample that the stage began
with, and ``fresh`` unit noise drawn for this step. The weights are float64 functions of the noise
levels alone, so they are computed before a step runs, and a step in the graph is two sums.

A new solver is a function from noise levels to the two arrays of weights, an entry in
:data:`SOLVERS`, and its name in ``SchedulerConfig.solver``.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from helios_jax.types import Array, Float

Weights: TypeAlias = tuple[np.ndarray, np.ndarray]
"""C [M, 5] and P [M, 5] of a stage of M steps, float64."""

CORRECTED, PREVIOUS, DATA, START, FRESH = range(5)
"""Columns of P."""


class SolverTable(NamedTuple):
    """Weights of every step of one stage; indexing all three gives a step's row.

    Attributes:
      sigma: [M] noise level before each step.
      correct: [M, 5] C, the weights of the corrected sample.
      predict: [M, 5] P, the weights of the next sample.
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
    fresh: Float[Array, "B T H W C"] | None = None,
) -> SolverState:
    """One step, in the sample's dtype.

    Args:
      state: of the solver.
      velocity: the network's output at ``state.sample``.
      start: the sample the stage began with.
      row: this step's row of the table.
      fresh: unit noise of this step; None for a solver that :func:`needs_noise` says no of.
    """
    data = state.sample - row.sigma * velocity.astype(state.sample.dtype)
    corrected = _weighted_sum(row.correct, state.sample, state.last, state.older, state.newer, data)
    terms = [corrected, state.newer, data, start]
    if fresh is not None:
        terms.append(fresh.astype(state.sample.dtype))
    return SolverState(_weighted_sum(row.predict, *terms), corrected, state.newer, data)


def solver_table(solver: str, sigmas: np.ndarray) -> SolverTable:
    """The float32 weights of a solver.

    Args:
      solver: a key of :data:`SOLVERS`.
      sigmas: [M + 1] noise levels, descending, the last of them 0.
    """
    levels = np.asarray(sigmas, np.float64)
    correct, predict = SOLVERS[solver](levels)
    return SolverTable(
        levels[:-1].astype(np.float32), correct.astype(np.float32), predict.astype(np.float32)
    )


def needs_noise(solver: str) -> bool:
    """Whether a solver adds fresh noise between steps."""
    return bool(solver_table(solver, np.linspace(0.999, 0, 5)).predict[:, FRESH].any())


def euler(sigmas: np.ndarray) -> Weights:
    """x' = x + (sigma' - sigma) v, with v written as (x - m) / sigma."""
    correct, predict = _empty(sigmas)
    ratio = sigmas[1:] / sigmas[:-1]
    predict[:, CORRECTED] = ratio
    predict[:, DATA] = 1 - ratio
    return correct, predict


def dmd(sigmas: np.ndarray) -> Weights:
    """x' = (1 - sigma') m + sigma' start: the predicted data, noised again along the stage's own
    path (Helios, few-step sampling).
    """
    correct, predict = _empty(sigmas)
    predict[:, DATA] = 1 - sigmas[1:]
    predict[:, START] = sigmas[1:]
    return correct, predict


def dpmpp_2m(sigmas: np.ndarray) -> Weights:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, Algorithm 2).

    x' = (sigma' / sigma) x - alpha' expm1(-h) ((1 + 1/2r) m_i - 1/2r m_{i-1}) with h the step in
    log(alpha / sigma) and r the ratio of the step before it to h. The first step has order 1, and
    so has the last, where h is infinite.
    """
    correct, predict = _empty(sigmas)
    alpha = 1 - sigmas
    lam = _log_snr(sigmas)
    steps = len(sigmas) - 1
    for i in range(steps):
        h = lam[i + 1] - lam[i]
        gain = -alpha[i + 1] * np.expm1(-h)
        slope = 0.0
        if 0 < i < steps - 1:
            slope = 0.5 * h / (lam[i] - lam[i - 1])
        predict[i, CORRECTED] = sigmas[i + 1] / sigmas[i]
        predict[i, DATA] = gain * (1 + slope)
        predict[i, PREVIOUS] = -gain * slope
    return correct, predict


def unipc(sigmas: np.ndarray) -> Weights:
    """UniPC with B(h) = expm1(h), data prediction, order 2 and lower order at the end (Zhao et al.
    2023, Algorithms 5 to 8).
    """
    correct, predict = _empty(sigmas)
    alpha = 1 - sigmas
    sigma = np.maximum(sigmas, 1e-8)
    lam = _log_snr(sigmas)
    steps = len(sigmas) - 1
    for i in range(steps):
        if i > 0:
            h = lam[i] - lam[i - 1]
            gain = -alpha[i] * np.expm1(-h)
            if i == 1:  # the predictor before this had order 1
                older = 0.0
                data = 0.5
            else:
                r = (lam[i - 2] - lam[i - 1]) / h
                b1, b2 = _phi_ratios(h)
                older = (b1 - b2) / (1 - r)
                data = b1 - older
                older = older / r
            ratio = sigma[i] / sigma[i - 1]
            correct[i] = (0, ratio, gain * older, gain * (1 - older - data), gain * data)
        h = lam[i + 1] - lam[i]
        gain = -alpha[i + 1] * np.expm1(-h)
        slope = 0.0
        if 0 < i < steps - 1:
            slope = 0.5 * h / (lam[i - 1] - lam[i])
        predict[i, CORRECTED] = sigma[i + 1] / sigma[i]
        predict[i, PREVIOUS] = gain * slope
        predict[i, DATA] = gain * (1 - slope)
    return correct, predict


SOLVERS: Mapping[str, Callable[[np.ndarray], Weights]] = {
    "unipc": unipc,
    "euler": euler,
    "dmd": dmd,
    "dpmpp_2m": dpmpp_2m,
}
"""From a name to the weights for noise levels [M + 1]."""


def _log_snr(sigmas: np.ndarray) -> np.ndarray:
    """lambda = log(alpha / sigma), with the last noise level, 0, taken as 1e-8."""
    return np.log(1 - sigmas) - np.log(np.maximum(sigmas, 1e-8))


def _phi_ratios(h: float) -> tuple[float, float]:
    """phi_2(-h) / B and 2 phi_3(-h) / B, the right-hand side of the order conditions of a two-term
    corrector.
    """
    e = np.expm1(-h)
    phi1 = e / -h - 1
    phi2 = phi1 / -h - 0.5
    return phi1 / e, 2 * phi2 / e


def _empty(sigmas: np.ndarray) -> Weights:
    """A correction that takes the sample as it is, and a prediction of zeros."""
    steps = len(sigmas) - 1
    return np.tile([1.0, 0, 0, 0, 0], (steps, 1)), np.zeros((steps, 5))


def _weighted_sum(weights: Array | np.ndarray, *terms: Array) -> Array:
    """The sum of ``terms``, each times its weight; further weights are of terms left out."""
    return functools.reduce(operator.add, [weights[i] * term for i, term in enumerate(terms)])
