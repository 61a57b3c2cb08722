"""Detecting drift, and what is then corrupted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.diffusion.drift import (
    DriftControl,
    control_drift,
    detect_drift,
    draw_drift_noise,
    start_drift,
)
from helios_jax.diffusion.history import HistoryState, append_chunk, start_history

CONTROL = DriftControl()
LATENTS = np.random.default_rng(0).standard_normal((6, 2, 9, 4, 4, 3)).astype(np.float32)
LATENTS[3:, 0] += np.array([0.5, -1.0, 0.0], np.float32)
LATENTS[4:, 1] *= 1.5
"""Six chunks of two videos: the first one's mean jumps at chunk 3, the second one's variance at
chunk 4.
"""


def run(control, shown=True):
    """All chunks, one after another: history, shown latents and decision of each."""
    statistics, history, results = start_drift(2, 3), start_history((2, 4, 4, 3), (16, 2, 1)), []
    for chunk, latents in enumerate(LATENTS):
        history = append_chunk(history, jnp.asarray(latents))
        noise = draw_drift_noise(jax.random.split(jax.random.key(0), 2), chunk, (9, 4, 4, 3))
        statistics, history, out, decision = control_drift(
            statistics, history, jnp.asarray(latents), noise, jnp.array(shown), control
        )
        results.append((history, out, decision))
    return results


def test_distances_are_those_of_the_formula():
    """Running statistics are updated before the distance is taken, the first chunk starts them, and
    the variance is unbiased.
    """
    statistics = start_drift(2, 3)
    for latents in LATENTS[:4]:
        statistics, decision = detect_drift(statistics, jnp.asarray(latents), CONTROL)
    means, variances = LATENTS.mean((2, 3, 4)), LATENTS.var((2, 3, 4), ddof=1)
    mean, variance = means[0], variances[0]
    for chunk in (1, 2, 3):
        mean, variance = 0.9 * mean + 0.1 * means[chunk], 0.9 * variance + 0.1 * variances[chunk]
    np.testing.assert_allclose(decision.mean, np.linalg.norm(means[3] - mean, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(
        decision.variance, np.linalg.norm(variances[3] - variance, axis=-1), rtol=1e-4
    )


def test_only_a_video_that_drifts_is_corrupted():
    """Each video is decided upon by itself, either distance being enough; the first chunk never
    drifts.
    """
    quiet = dataclasses.replace(CONTROL, mean_threshold=0.4, variance_threshold=0.7)
    decisions = [list(map(bool, decision.corrupted)) for _, _, decision in run(quiet)]
    assert decisions == [[False, False]] * 3 + [[True, False]] + [[True, True]] * 2
    both = dataclasses.replace(quiet, when="both")
    assert not any(bool(decision.corrupted.any()) for _, _, decision in run(both))


def test_the_history_is_corrupted_and_the_chunk_is_not():
    """Where a chunk has drifted its frames in the window are noised by the strength; anchor, older
    frames and the chunk itself are untouched.
    """
    for chunk, (history, latents, decision) in enumerate(
        run(dataclasses.replace(CONTROL, mean_threshold=0.4, variance_threshold=0.7))
    ):
        np.testing.assert_array_equal(latents, LATENTS[chunk])
        np.testing.assert_array_equal(history.anchor, LATENTS[0][:, :1])
        for video in range(2):
            added = np.std(history.window[video, -9:] - LATENTS[chunk][video])
            if decision.corrupted[video]:
                np.testing.assert_allclose(added, CONTROL.strength, rtol=0.1)
            else:
                assert added == 0


@pytest.mark.parametrize("shown", [True, False])
def test_as_in_the_reference_the_chunk_itself_is_corrupted(shown):
    """With ``corrupt="chunk"`` what is shown is what the history holds, save in the last chunk."""
    history, latents, decision = run(dataclasses.replace(CONTROL, corrupt="chunk"), shown)[-1]
    assert decision.corrupted.all()
    np.testing.assert_array_equal(latents, history.window[:, -9:] if shown else LATENTS[-1])


def test_a_window_shorter_than_a_chunk():
    """The window keeps its size."""
    history = HistoryState(
        jnp.zeros((2, 5, 4, 4, 3)), jnp.zeros((2, 1, 4, 4, 3)), jnp.ones((), bool)
    )
    control = dataclasses.replace(CONTROL, mean_threshold=-1.0)
    _, history, _, _ = control_drift(
        start_drift(2, 3),
        history,
        jnp.asarray(LATENTS[0]),
        jnp.zeros((2, 9, 4, 4, 3)),
        jnp.array(True),
        control,
    )
    np.testing.assert_array_equal(history.window, LATENTS[0][:, -5:])


def test_noise_is_of_a_video_and_a_chunk():
    """Other chunk or other key, other noise; the same again, the same."""
    keys = jax.random.split(jax.random.key(0), 2)
    draws = [
        np.asarray(draw_drift_noise(keys[:videos], chunk, (2, 4, 4, 3)))
        for videos, chunk in ((2, 0), (1, 0), (1, 1))
    ]
    np.testing.assert_array_equal(draws[0][:1], draws[1])
    assert np.abs(draws[1] - draws[2]).max() > 0.1
    assert np.abs(draws[0][0] - draws[0][1]).max() > 0.1
