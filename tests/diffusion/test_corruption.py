"""Tasks are drawn as often as they are meant to be, and damage is what its draws say, where there
is something to damage.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helios_jax.diffusion.corruption import (
    CorruptionConfig,
    CorruptionDraws,
    Segments,
    TaskConfig,
    TaskDraws,
    apply_corruption,
    apply_task,
    draw_corruption,
    draw_task,
    segments,
)

SIZES, CHUNK, WINDOW = (16, 2, 1), 9, 19
PARTS = segments("reference", SIZES, CHUNK)
SHAPE = (8, 12, 3)
MODES = {"clean": 0, "noise": 1, "blur": 2, "exposure": 3}


def frames(seed=0, shape=SHAPE):
    """A history and an anchor without zeros."""
    values = np.random.default_rng(seed).standard_normal((WINDOW + 1, *shape), np.float32)
    return jnp.asarray(values[:-1]), jnp.asarray(values[-1:])


def draws_of(mode, shape=SHAPE, sigma=0.25, scale=1.0, exposure=1.0, saturation=1.0):
    """Draws by hand: numbers for all frames and segments, or a list of one for each."""
    each = lambda value, count: jnp.asarray(
        np.broadcast_to(np.asarray(value, np.float32), (count,))
    )
    noise = jax.random.normal(jax.random.key(9), (WINDOW + 1, *shape))
    return CorruptionDraws(
        jnp.int32(MODES[mode]),
        each(sigma, 20),
        noise,
        each(scale, 5),
        each(exposure, 5),
        each(saturation, 5),
    )


@functools.partial(jax.jit, static_argnames=("config", "parts"))
def damage(history, anchor, draws, config=CorruptionConfig(), parts=PARTS):
    return apply_corruption(history, anchor, draws, config, parts)


def assert_share(hits, expected):
    """A share of independent trials within four standard deviations of its probability."""
    hits = np.asarray(hits)
    assert abs(hits.mean() - expected) <= 4 * (expected * (1 - expected) / hits.size) ** 0.5, (
        hits.mean(),
        expected,
    )


def test_tasks_and_cuts_come_with_the_probabilities_of_three_tests_in_a_row():
    """With (.4, .1, .4): text .4, image .6 x .1, video .6 x .9 x .4 with three cuts alike, and the
    whole history otherwise.
    """
    keys = jax.random.split(jax.random.key(0), 4000)
    task, cut = jax.vmap(
        lambda key: draw_task(key, TaskConfig(text=0.4, image=0.1, video=0.4), WINDOW, CHUNK)
    )(keys)
    assert_share(task == 1, 0.4)
    assert_share(task == 2, 0.06)
    assert_share(task == 0, 0.324)
    for k in range(3):
        assert_share((task == 3) & (cut == k), 0.072)
    assert set(np.unique(cut)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("task", "cut", "kept", "anchored"),
    [
        (0, 2, 19, True),
        (1, 0, 0, False),
        (2, 0, 1, True),
        (3, 0, 18, True),
        (3, 1, 9, True),
        (3, 2, 0, True),
    ],
)
def test_a_task_keeps_the_newest_frames_and_the_anchor(task, cut, kept, anchored):
    """Whole; text: nothing; image: the newest; video: all but the oldest 1, 10 or 19."""
    history, anchor = frames()
    found, found_anchor = apply_task(
        history, anchor, TaskDraws(jnp.int32(task), jnp.int32(cut)), CHUNK
    )
    assert not np.any(found[: WINDOW - kept])
    np.testing.assert_array_equal(found[WINDOW - kept :], history[WINDOW - kept :])
    np.testing.assert_array_equal(found_anchor, anchor if anchored else np.zeros_like(anchor))


def test_the_reference_map_is_chunks_the_newest_of_which_is_cut_in_two():
    """Segments 0 | 1-9 | 10-11 | 12-18 | anchor; the two of the last chunk are one window; noise
    levels long before the cut, mid after it.
    """
    assert (
        Segments(
            segment=(0, *[1] * 9, *[2] * 2, *[3] * 7, 4),
            window=(0, *[1] * 9, *[2] * 9, 3),
            role=(*[0] * 12, *[1] * 7, 2),
        )
        == PARTS
    )


def test_the_map_by_roles_is_long_mid_newest_and_anchor():
    each = (*[0] * 16, *[1] * 2, 2)
    whole_chunks = (0, *[1] * 9, *[2] * 9)
    assert segments("roles", SIZES, CHUNK) == Segments((*each, 3), (*whole_chunks, 3), (*each, 2))


@pytest.mark.parametrize(
    "draws",
    [
        draws_of("clean", sigma=0.3),
        draws_of("noise", sigma=0.0),
        draws_of("exposure"),
        draws_of("blur"),
    ],
)
def test_no_damage_of_any_kind_is_identity(draws):
    """Clean is exact whatever else was drawn, and so is every damage of strength 0; blur of scale 1
    to a rounding.
    """
    exact = draws.mode != MODES["blur"]
    for found, given in zip(damage(*frames(), draws), frames()):
        np.testing.assert_allclose(found, given, rtol=0, atol=0 if exact else 1e-6)


def test_noise_is_blended_with_each_frames_own_level():
    history, anchor = frames()
    sigma = np.linspace(0, 1, 20, dtype=np.float32)
    draws = draws_of("noise", sigma=sigma)
    found = np.concatenate(damage(history, anchor, draws))
    given, column = np.concatenate([history, anchor]), sigma[:, None, None, None]
    np.testing.assert_allclose(
        found, (1 - column) * given + column * np.asarray(draws.noise), atol=1e-6
    )


@pytest.mark.parametrize(("zeros", "damaged_from"), [(19, 19), (10, 10), (1, 1), (5, 1), (0, 0)])
@pytest.mark.parametrize("mode", ["noise", "exposure"])
def test_windows_of_zeros_stay_zero_and_zero_frames_beside_others_get_noise(
    mode, zeros, damaged_from
):
    """What tasks and early sections leave out looks left out; a zero frame of a window that is used
    becomes noise of variance sigma squared.
    """
    history, anchor = frames()
    history = history.at[:zeros].set(0.0)
    draws = draws_of(mode, sigma=0.25, exposure=0.5)
    found, found_anchor = damage(history, jnp.zeros_like(anchor), draws)
    assert not np.any(found_anchor)
    assert not np.any(found[:damaged_from])
    assert np.all(np.any(np.asarray(found[zeros:]) != np.asarray(history[zeros:]), axis=(1, 2, 3)))
    between = np.asarray(found[damaged_from:zeros])
    if mode == "noise" and between.size:
        assert between.var() == pytest.approx(0.25**2, rel=0.1)
    else:
        assert not np.any(between)


def test_zero_windows_are_told_for_each_sample_of_a_batch():
    """A sample without a history stays without one beside a sample that has one."""
    history, anchor = frames()
    both = (
        jnp.stack([history, jnp.zeros_like(history)]),
        jnp.stack([anchor, jnp.zeros_like(anchor)]),
    )
    found = jax.vmap(
        lambda history, anchor: damage(history, anchor, draws_of("noise", saturation=1.5))
    )(*both)
    assert np.any(found[0][0] != history)
    assert not np.any(found[0][1])
    assert not np.any(found[1][1])


def test_exposure_scales_each_segment_by_its_factor():
    history, anchor = frames()
    factors = np.array([0.5, 0.75, 1.25, 1.5, 2.0], np.float32)
    found = np.concatenate(damage(history, anchor, draws_of("exposure", exposure=factors)))
    np.testing.assert_allclose(
        found,
        factors[list(PARTS.segment)][:, None, None, None] * np.concatenate([history, anchor]),
        rtol=1e-6,
    )


def test_the_anchor_can_be_left_out_of_the_damage():
    history, anchor = frames()
    found, kept = damage(history, anchor, draws_of("noise"), CorruptionConfig(anchor=False))
    np.testing.assert_array_equal(kept, anchor)
    assert np.all(found != history)


def test_saturation_keeps_the_channels_mean_and_scales_deviations():
    """Each segment's by its own factor."""
    history, anchor = frames()
    factors = np.array([0.5, 0.75, 1.25, 1.5, 1.0], np.float32)
    found, found_anchor = damage(history, anchor, draws_of("clean", saturation=factors))
    given, mean = np.asarray(history), np.asarray(history).mean(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(found).mean(-1, keepdims=True), mean, atol=1e-6)
    expected = factors[list(PARTS.segment[:-1])][:, None, None, None] * (given - mean)
    np.testing.assert_allclose(np.asarray(found) - mean, expected, atol=1e-6)
    np.testing.assert_array_equal(found_anchor, anchor)


def resized(values, height, width):
    """PyTorch's antialiased bilinear resize down and back up, of [T H W C]; in float64, as in
    float32 it misplaces the last of 40 cells by 1e-5.
    """
    resize = functools.partial(F.interpolate, mode="bilinear", align_corners=False, antialias=True)
    planes = torch.from_numpy(np.array(values, np.float64)).permute(0, 3, 1, 2)
    return (
        resize(resize(planes, size=(height, width)), size=planes.shape[2:])
        .permute(0, 2, 3, 1)
        .numpy()
    )


@pytest.mark.parametrize(
    ("cells", "scales", "bounds"),
    [
        ((24, 40), [0.9, 0.92, 0.95, 0.98, 1.0], (0.9, 1.0)),
        (
            (8, 16),
            [0.5625, 0.6875, 0.8125, 0.9375, 0.5],
            (0.5, 1.0),
        ),  # halves of cells, which are rounded to even
        ((3, 5), [0.1, 0.2, 0.4, 0.6, 0.8], (0.1, 0.8)),  # one cell remains at least
    ],
)
def test_blur_is_pytorchs_antialiased_resize_down_and_up(cells, scales, bounds):
    """Each segment to its own size, ``max(1, round(scale x size))``; to 1e-5."""
    H, W = cells
    history, anchor = frames(shape=(H, W, 2))
    found = np.concatenate(
        damage(
            history,
            anchor,
            draws_of("blur", (H, W, 2), scale=scales),
            CorruptionConfig(blur_scale=bounds),
        )
    )
    given = np.concatenate([history, anchor])
    for number, scale in enumerate(scales):
        own = np.array(PARTS.segment) == number
        size = max(1, round(scale * H)), max(1, round(scale * W))
        np.testing.assert_allclose(found[own], resized(given[own], *size), atol=1e-5)


def test_blur_keeps_constants():
    history, anchor = (jnp.full_like(part, 2.5) for part in frames())
    for found in damage(history, anchor, draws_of("blur", scale=[0.9, 0.92, 0.95, 0.98, 1.0])):
        np.testing.assert_allclose(found, 2.5, rtol=1e-6)


@functools.partial(jax.jit, static_argnames="config")
def draw_many(keys, config):
    return jax.vmap(lambda key: draw_corruption(key, config, PARTS, (1, 1, 1)))(keys)


KEYS = jax.random.split(jax.random.key(1), 4000)
MIXED = CorruptionConfig(
    clean=0.2, noise=2.0, blur=1.0, exposure=1.0, noise_sigma=(0.1, 0.2, 0.4), blur_scale=(0.6, 0.8)
)


def test_damage_is_drawn_with_the_probabilities_and_ranges_asked_for():
    """One kind a sample; levels uniform below each role's own; factors on both sides of 1 alike, a
    tenth of them 1, the anchor's always.
    """
    draws = draw_many(KEYS, MIXED)
    for mode, expected in zip(range(4), (0.2, 0.4, 0.2, 0.2)):
        assert_share(draws.mode == mode, expected)
    levels = np.asarray(draws.sigma) / np.array([0.1, 0.2, 0.4], np.float32)[list(PARTS.role)]
    for quantile in (0.25, 0.5, 0.9):
        assert_share(levels < quantile, quantile)
        assert_share(draws.scale < 0.6 + 0.2 * quantile, quantile)
        assert_share(draws.exposure < 0.3 + 1.4 * quantile, quantile)
    saturation = np.asarray(draws.saturation)
    assert np.all(saturation[:, -1] == 1)
    assert_share(saturation[:, :-1] == 1, 0.1)
    assert_share(saturation[:, :-1] < 1, 0.45)
    assert_share(saturation[:, :-1] < 0.65, 0.225)
    assert_share(saturation[:, :-1] > 1.35, 0.225)
    assert abs(np.corrcoef(levels[:, 3], levels[:, 4])[0, 1]) < 0.06
    assert np.asarray(draws.noise).std() == pytest.approx(1, abs=0.02)


def test_a_published_run_never_blurs_or_saturates_and_levels_can_be_shared_by_a_segment():
    draws = draw_many(
        KEYS, CorruptionConfig(clean=0.1, noise=1.0, blur=0.0, saturation=False, per_frame=False)
    )
    assert set(np.unique(draws.mode)) == {0, 1}
    assert_share(draws.mode == 0, 0.1)
    assert np.all(draws.saturation == 1)
    assert [
        len(np.unique(draws.sigma[0, np.array(PARTS.segment) == number])) for number in range(5)
    ] == [1] * 5
    assert len(np.unique(draws.sigma[0])) == 5


def test_draws_of_a_sample_do_not_depend_on_what_it_shares_a_batch_with():
    some = draw_many(KEYS, MIXED)
    others = draw_many(
        jnp.concatenate([KEYS[7:8], jax.random.split(jax.random.key(2), len(KEYS) - 1)]), MIXED
    )
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one[7], other[0]), some, others)
