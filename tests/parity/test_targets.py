"""What the network is asked and what it is to answer, against the equations written again in
float64 with PyTorch, and published numbers.
"""

import dataclasses
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.schedules import stage_tables
from helios_jax.training.flow import flow_table, flow_targets
from helios_jax.training.pyramid import pyramid_points, pyramid_targets
from helios_jax.training.targets import FlowDraws, TimestepConfig, draw_flow

SHAPE = (3, 8, 16, 2)
ONE_STAGE = SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
PYRAMID = SchedulerConfig()
FULL = 8640
"""Noisy tokens of 9 x 48 x 80 latents."""

START = (0.999, 0.7997597118943234, 0.5003741566479257)
END = (0.666333, 0.333666, 0.0)
ORIGINAL = (0.999, 0.666333, 0.333666)
TIMES = ((999.0, 743.511744), (743.256, 385.971642), (385.614, 1.383615))
"""First and last timestep of each level's table of 1000."""


def sample(*indices):
    """Latents and draws with the given places in the table."""
    values = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    return jnp.asarray(values[0]), FlowDraws(
        jnp.asarray(values[1]), jnp.asarray(indices, jnp.int32)
    )


def exact(array):
    return torch.from_numpy(np.array(array, np.float64))


def assert_same(found, expected):
    """To float32's rounding of values of a few units."""
    np.testing.assert_allclose(
        np.asarray(found, np.float64), np.asarray(expected), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("index", [0, 1, 500, 999])
def test_flow_is_noise_and_data_blended_by_one_minus_the_place_in_the_table(index):
    """x_t = (1 - sigma) x + sigma e with sigma = (1000 - i) / 1000, t = 1000 sigma, and the answer
    e - x.
    """
    latents, draws = sample(index)
    [item] = flow_targets(latents, draws, ONE_STAGE, TimestepConfig(), 0)
    x = exact(latents)
    e = exact(draws.noise)
    sigma = (1000 - index) / 1000
    assert_same(item.noisy, (1 - sigma) * x + sigma * e)
    assert_same(item.velocity, e - x)
    assert_same(item.timestep, 1000 * sigma)
    assert item.weight == 1


@pytest.mark.parametrize(
    ("kind", "tokens", "mu"),
    [
        ("linear", 540, 0.5480729167),
        ("linear", 2160, 0.8222916667),
        ("linear", FULL, 1.9191666667),
        ("exponential", 540, 1.7299161),
        ("exponential", 2160, 2.2757090),
        ("exponential", FULL, 6.8152767),
    ],
)
def test_dynamic_shift_is_that_of_the_number_of_tokens(kind, tokens, mu):
    """sigma <- mu sigma / (1 + (mu - 1) sigma), and the timestep with it; not unless it is asked
    for.
    """
    scheduler = dataclasses.replace(ONE_STAGE, time_shift_type=kind)
    sigma = np.arange(1000, 0, -1) / 1000
    shifted, timesteps = flow_table(scheduler, TimestepConfig(dynamic_shift=True), tokens)
    np.testing.assert_allclose(shifted, mu * sigma / (1 + (mu - 1) * sigma), rtol=1e-7)
    np.testing.assert_allclose(timesteps, 1000 * shifted, rtol=1e-12)
    plain, timesteps = flow_table(scheduler, TimestepConfig(), tokens)
    np.testing.assert_array_equal(plain, sigma)
    np.testing.assert_allclose(timesteps, 1000 * sigma, rtol=1e-12)


def test_the_pyramids_tables_are_the_published_numbers():
    for table, start, original, end, (first, last) in zip(
        stage_tables(PYRAMID), START, ORIGINAL, END, TIMES, strict=True
    ):
        assert table.start_sigma == pytest.approx(start, abs=1e-12)
        assert table.original_start_sigma == pytest.approx(original, abs=1e-12)
        assert table.end_sigma == pytest.approx(end, abs=1e-12)
        assert (table.timesteps[0], table.timesteps[-1]) == pytest.approx((first, last), abs=1e-6)
        np.testing.assert_allclose(
            table.timesteps, first + (last - first) * np.arange(1000) / 999, atol=1e-5
        )
        np.testing.assert_allclose(table.sigmas, 0.999 * (1 - np.arange(1000) / 1000), atol=1e-12)


def pyramid(x, factor):
    """Halved twice by PyTorch's bilinear interpolation, coarsest first, multiplied by ``factor``
    each time.
    """
    levels = [x]
    for _ in range(2):
        frames = levels[0].permute(0, 3, 1, 2)
        levels.insert(
            0, factor * F.interpolate(frames, scale_factor=0.5, mode="bilinear").permute(0, 2, 3, 1)
        )
    return levels


def enlarged(x):
    return F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest").permute(0, 2, 3, 1)


def points(latents, noise):
    """Start and end point of each level."""
    data = pyramid(exact(latents), 1)
    noises = pyramid(exact(noise), 2)
    found = []
    for level, (x, n) in enumerate(zip(data, noises)):
        start = (
            n if level == 0 else START[level] * n + (1 - START[level]) * enlarged(data[level - 1])
        )
        found.append((start, END[level] * n + (1 - END[level]) * x))
    return found


def test_each_pyramid_item_is_its_levels_start_and_end_point_blended():
    """y = s start + (1 - s) end with s = .999 (1 - j / 1000), the level's own timestep, and the
    answer start - end; as many as are counted.
    """
    indices = (0, 7, 993, 500, 999)
    levels = (0, 1, 1, 1, 2)
    latents, draws = sample(*indices)
    items = pyramid_targets(latents, draws, PYRAMID, TimestepConfig(), (1, 3, 1))
    ends = points(latents, draws.noise)
    for item, level, j in zip(items, levels, indices, strict=True):
        start, end = ends[level]
        s = 0.999 * (1 - j / 1000)
        first, last = TIMES[level]
        assert_same(item.noisy, s * start + (1 - s) * end)
        assert_same(item.velocity, start - end)
        assert float(item.timestep) == pytest.approx(first + (last - first) * j / 999, rel=1e-6)
        assert item.weight == 1


def test_the_finest_level_ends_at_the_data_and_the_coarsest_begins_with_noise():
    """Where one level ends is, renoised, where the next begins; the whole path goes from unit noise
    to the latents themselves.
    """
    latents, draws = sample()
    found = pyramid_points(latents, draws.noise, PYRAMID)
    np.testing.assert_array_equal(found[-1][1], latents)
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((4, 128, 128, 1), np.float32))
    start = np.asarray(pyramid_points(noise, noise, PYRAMID)[0][0])
    np.testing.assert_allclose(start, pyramid(exact(noise), 2)[0], atol=1e-6)
    assert start.var() == pytest.approx(1, abs=0.05)


@functools.cache
def distribution(config, count=20000):
    """Places in the table, drawn many times."""
    return np.asarray(draw_flow(jax.random.key(0), config, (1, 1, 1, 1), count).index)


def assert_distributed(index, probability):
    """The share of draws below each level is within Kolmogorov's bound of ``probability(u)``, the
    level at place 1000 u.
    """
    levels = np.arange(1, 1000)
    share = np.searchsorted(np.sort(index), levels) / len(index)
    distance = np.abs(share - np.array([probability(u) for u in levels / 1000])).max()
    assert distance < 1.63 / len(index) ** 0.5, distance
    assert index.min() >= 0
    assert index.max() <= 999


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal_places_have_a_normal_logit(mean, std):
    normal = statistics.NormalDist(mean, std)
    index = distribution(TimestepConfig(density="logit_normal", logit_mean=mean, logit_std=std))
    assert_distributed(index, lambda u: normal.cdf(np.log(u / (1 - u))))


def test_uniform_places_are_uniform():
    assert_distributed(distribution(TimestepConfig(density="uniform")), lambda u: u)


def test_mode_places_are_the_published_function_of_uniform_ones():
    """u = 1 - v - m (cos^2(pi v / 2) - 1 + v), v uniform."""
    v = (np.arange(200000) + 0.5) / 200000
    u = np.sort(1 - v - 1.29 * (np.cos(np.pi * v / 2) ** 2 - 1 + v))
    assert_distributed(
        distribution(TimestepConfig(density="mode", mode_scale=1.29)),
        lambda level: np.searchsorted(u, level) / len(u),
    )


@pytest.mark.parametrize(
    ("weighting", "formula"),
    [
        ("none", lambda sigma: 1.0),
        ("sigma_sqrt", lambda sigma: sigma**-2),
        ("cosmap", lambda sigma: 2 / (np.pi * (1 - 2 * sigma + 2 * sigma**2))),
    ],
)
def test_weights_are_the_published_functions_of_sigma(weighting, formula):
    latents, draws = sample(250, 900, 40)
    timesteps = TimestepConfig(weighting=weighting)
    [flow] = flow_targets(latents, draws, ONE_STAGE, timesteps, 0)
    assert float(flow.weight) == pytest.approx(formula(0.75), rel=1e-6)
    for item, j in zip(
        pyramid_targets(latents, draws, PYRAMID, timesteps, (1, 1, 1)), (250, 900, 40), strict=True
    ):
        assert float(item.weight) == pytest.approx(formula(0.999 * (1 - j / 1000)), rel=1e-6)


def test_items_have_places_of_their_own():
    """One noise, but as many levels as there are questions."""
    assert len(np.unique(distribution(TimestepConfig(density="uniform"))[:4])) == 4
