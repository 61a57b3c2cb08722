"""Means become ratings and totals by the benchmark's tables, with the values its script gives."""

import math

import pytest

from helios_jax.evaluation.bench import BenchError, rate, rate_all, rate_throughput, total
from helios_jax.evaluation.bench.ratings import LONG_WEIGHTS, SHORT_WEIGHTS, THRESHOLDS

# The means of the two sample clips that the authors publish with their code.
SAMPLE = {
    "aesthetic": 0.6564263701438904,
    "motion_amplitude": 0.12899818271398544,
    "motion_smoothness": 0.9922347277689807,
    "semantic": 0.2817579507827759,
    "naturalness": 0.5,
    "drifting_aesthetic": 0.027865678071975708,
    "drifting_motion_smoothness": 0.0009624073235373065,
    "drifting_semantic": 0.006637156009674072,
    "drifting_naturalness": 0.0,
}
SAMPLE_RATINGS = (9, 3, 10, 8, 7, 8, 10, 10, 10)
WITHOUT_JUDGE = {name: mean for name, mean in SAMPLE.items() if "naturalness" not in name}


def test_the_sample_results_get_the_published_ratings():
    assert rate_all(SAMPLE) == dict(zip(SAMPLE, SAMPLE_RATINGS))


def test_the_sample_results_get_the_published_totals():
    assert total(rate_all(SAMPLE)).rating == 8.247
    assert total(rate_all(SAMPLE, long=False), long=False).rating == 7.45


def test_without_a_judge_the_total_says_what_is_missing_and_out_of_what_it_is():
    found = total(rate_all(WITHOUT_JUDGE))
    assert found.rating == 5.472
    assert found.possible == 6.42
    assert found.of_ten == pytest.approx(8.5234, abs=1e-4)
    assert found.missing == ("naturalness", "drifting_naturalness")


def test_a_total_of_nothing_is_not_a_number_out_of_ten():
    assert total({}).of_ten is None


def test_a_mean_of_zero_is_rated_1_and_vanishes_only_where_the_original_is_imitated():
    means = {**SAMPLE, "naturalness": 0.0}
    assert rate_all(means)["naturalness"] == 1
    assert total(rate_all(means)).rating == round(8.247 - 6 * 0.255, 4)
    assert "naturalness" not in rate_all(means, compatible=True)
    assert total(rate_all(means, compatible=True)).rating == 6.462


def test_a_drift_of_zero_is_perfect_either_way():
    for compatible in (False, True):
        assert rate_all({"drifting_naturalness": 0.0}, compatible=compatible) == {
            "drifting_naturalness": 10
        }


def test_a_metric_without_a_mean_is_left_out():
    assert rate_all({"semantic": None}) == {}


@pytest.mark.parametrize(
    ("metric", "mean", "long", "rating"),
    [
        ("aesthetic", 0.38, True, 1),
        ("aesthetic", 0.38, False, 3),
        ("aesthetic", 0.42, True, 4),
        ("naturalness", 0.33, True, 4),
        ("motion_amplitude", 0.45, True, 10),
        ("motion_amplitude", 7.0, True, 10),
        ("motion_amplitude", 0.0, True, 1),
        ("drifting_aesthetic", 0.01, True, 10),
        ("drifting_aesthetic", 0.0100001, True, 9),
        ("drifting_naturalness", 0.23, True, 1),
    ],
)
def test_a_mean_gets_the_first_threshold_it_passes(metric, mean, long, rating):
    assert rate(metric, mean, long) == rating


def test_perfect_ratings_give_9_96_of_long_and_10_of_short_videos():
    perfect = dict.fromkeys(THRESHOLDS, 10)
    assert total(perfect).rating == 9.96
    assert total(perfect, long=False).rating == 10.0
    assert sum(LONG_WEIGHTS.values()) == pytest.approx(0.996)
    assert sum(SHORT_WEIGHTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("fps", "rating"), [(0.1, 1), (3.2, 1), (19.53, 7), (32.0, 10), (99, 10)])
def test_throughput_is_rated_by_frames_per_second(fps, rating):
    assert rate_throughput(float(fps)) == rating


def test_what_cannot_be_rated_is_named():
    with pytest.raises(BenchError, match="motion_blur has no rating; rated are aesthetic"):
        rate("motion_blur", 0.5)
    with pytest.raises(BenchError, match="the mean of semantic is not a number"):
        rate("semantic", math.nan)
