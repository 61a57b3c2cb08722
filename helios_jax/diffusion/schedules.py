"""Noise schedules: tables of noise levels and timesteps in float64, known before a step runs.

A noise level sigma is the share of noise in a flow-matching sample, x_sigma = (1 - sigma) data +
sigma noise. A timestep is what the network is given, on a global scale of 1000. With one stage
(Helios-Base), timestep = 1000 sigma. With several, each stage of the pyramid has local noise levels
from 0.999 to 0 and a range of the global timesteps of its own.
"""

from typing import NamedTuple

import numpy as np

from helios_jax.config import SchedulerConfig

SIGMA_MAX = 0.999
"""Noise level at which every stage begins."""


class StageTable(NamedTuple):
    """The constants of one pyramid stage.

    Attributes:
      start_sigma: noise level of the stage's start point, after the upsampled latents were
        renoised.
      original_start_sigma: noise level at which the stage before it ends.
      end_sigma: noise level of the stage's end point.
      timesteps: [1000] global timesteps, descending.
      sigmas: [1000] local noise levels, descending, the same for every stage.
    """

    start_sigma: float
    original_start_sigma: float
    end_sigma: float
    timesteps: np.ndarray
    sigmas: np.ndarray


class Schedule(NamedTuple):
    """The M steps of one stage.

    Attributes:
      timesteps: [M] given to the network.
      sigmas: [M + 1] noise levels, the last of them 0.
    """

    timesteps: np.ndarray
    sigmas: np.ndarray


def stage_tables(config: SchedulerConfig) -> list[StageTable]:
    """The tables of every stage.

    Renoising makes the start of stage k > 0 noisier than the end of stage k - 1: with signal share
    o = 1 - original_start_sigma, its start sigma is 1 - o / (sqrt(1 + 1/gamma) (1 - o) + o). Global
    timesteps are dealt out in proportion to the distance start - end each stage covers.
    """
    N = config.num_train_timesteps
    sigmas = 1 - np.linspace(1, 1 / N, N + 1)
    sigmas = (config.shift * sigmas / (1 + (config.shift - 1) * sigmas))[::-1][:-1]
    timesteps = N * sigmas

    bounds = [int(share * N) for share in config.stage_range]
    ends = [sigmas[bound] if bound < N else 0.0 for bound in bounds[1:]]
    originals = [sigmas[bound] for bound in bounds[:-1]]
    renoised = [_renoised_sigma(original, config.gamma) for original in originals[1:]]
    starts = [originals[0], *renoised]

    shares = np.concatenate([[0.0], np.cumsum([start - end for start, end in zip(starts, ends)])])
    shares /= shares[-1]
    local = np.linspace(SIGMA_MAX, 0, N + 1)[:-1]
    tables = []
    for stage in range(config.stages):
        first = min(timesteps[int(shares[stage] * N)], N - 1.0)
        # The last stage ends with the table: its share is taken just below 1 so that the index
        # exists.
        last = timesteps[min(int(min(shares[stage + 1], np.nextafter(1, 0)) * N), N - 1)]
        tables.append(
            StageTable(
                float(starts[stage]),
                float(originals[stage]),
                float(ends[stage]),
                np.linspace(first, last, N + 1)[:-1],
                local,
            )
        )
    return tables


def make_noise_schedule(
    config: SchedulerConfig, stage: int, steps: int, shift_tokens: int
) -> Schedule:
    """The steps of one stage.

    Args:
      config: the scheduler's.
      stage: 0 is the coarsest.
      steps: M, network evaluations of this stage.
      shift_tokens: noisy tokens of the grid that sets the dynamic shift.

    Returns:
      Timesteps and sigmas in float64. In a pyramid the timesteps are truncated to whole numbers, as
      the network is given them.
    """
    if config.stages == 1:
        sigmas = dynamic_shift(config, np.linspace(SIGMA_MAX, 0, steps + 1)[:-1], shift_tokens)
        return Schedule(config.num_train_timesteps * sigmas, np.append(sigmas, 0.0))

    table = stage_tables(config)[stage]
    # A few-step student takes one more point than it has steps, and leaves the last one out.
    points = steps + 1 if config.solver == "dmd" else steps
    sigmas = np.linspace(table.sigmas[0], table.sigmas[-1], points)[:steps]
    timesteps = np.linspace(table.timesteps[0], table.timesteps[-1], points)[:steps]
    if config.use_dynamic_shifting:
        sigmas = dynamic_shift(config, sigmas, shift_tokens)
        low = table.timesteps[-1]
        high = table.timesteps[0]
        timesteps = low + sigmas * (high - low)
    return Schedule(np.trunc(timesteps), np.append(sigmas, 0.0))


def merge_schedules(schedule: Schedule, other: Schedule) -> tuple[Schedule, np.ndarray]:
    """The steps of two schedules of one stage as one schedule, and the indices in it of those of
    ``other``.
    """
    sigmas = np.concatenate([schedule.sigmas[:-1], other.sigmas[:-1]])
    timesteps = np.concatenate([schedule.timesteps, other.timesteps])
    order = np.argsort(-sigmas, kind="stable")
    order = order[np.append(True, np.diff(sigmas[order]) < -1e-9)]
    merged = Schedule(timesteps[order], np.append(sigmas[order], 0.0))
    return merged, np.abs(merged.sigmas[:-1, None] - other.sigmas[None, :-1]).argmin(0)


def shift_tokens(config: SchedulerConfig, stage: int, tokens: list[int]) -> int:
    """The number of noisy tokens that sets the dynamic shift of ``stage``: its own, or that of the
    stage before it. ``tokens`` has the number of every stage.
    """
    return tokens[stage if config.shift_tokens == "own_stage" else max(stage - 1, 0)]


def dynamic_shift(config: SchedulerConfig, sigmas: np.ndarray, tokens: int) -> np.ndarray:
    """sigma <- s / (s + 1/sigma - 1), with s linear in the number of tokens, or the exponential of
    that. Without dynamic shifting, the noise levels as they are.
    """
    if not config.use_dynamic_shifting:
        return sigmas
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    shift = tokens * slope + config.base_shift - slope * config.base_image_seq_len
    if config.time_shift_type == "exponential":
        shift = np.exp(shift)
        if config.shift_tokens == "own_stage":
            # The original implementation's bound, which only sizes above 384 x 640 reach.
            shift = min(shift, 7.0)
    return shift / (shift + (1 / sigmas - 1))


def _renoised_sigma(original: float, gamma: float) -> float:
    """The noise level of upsampled latents of noise level ``original`` after renoising."""
    signal = 1 - original
    return 1 - signal / (np.sqrt(1 + 1 / gamma) * (1 - signal) + signal)
