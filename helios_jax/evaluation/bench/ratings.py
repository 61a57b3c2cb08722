"""From mean values to ratings of 1 to 10 and to the weighted total of HeliosBench.

A rating is that of the mean over all videos, not a mean of ratings. The tables are the benchmark's
own, with its oddities: the weights for long videos add up to 0.996, so that the best total is 9.96,
and the long thresholds of ``aesthetic`` are not monotone, so that a mean below 0.40 is rated 1.
"""

import dataclasses
import math
from collections.abc import Mapping

from helios_jax.evaluation.bench.errors import BenchError

RATING_SCALE = 10

_DRIFT = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09)

THRESHOLDS: dict[str, tuple[float, ...]] = {
    "aesthetic": (0.70, 0.65, 0.60, 0.55, 0.50, 0.45, 0.40, 0.35, 0.30),
    "motion_amplitude": (0.45, 0.40, 0.35, 0.30, 0.25, 0.20, 0.15, 0.10, 0.05),
    "motion_smoothness": (0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91),
    "semantic": (0.30, 0.29, 0.28, 0.27, 0.26, 0.25, 0.24, 0.23, 0.22),
    "naturalness": (0.65, 0.60, 0.55, 0.50, 0.45, 0.40, 0.30, 0.25, 0.20),
    "drifting_aesthetic": _DRIFT,
    "drifting_motion_smoothness": _DRIFT,
    "drifting_semantic": _DRIFT,
    "drifting_naturalness": (0.06, 0.08, 0.10, 0.12, 0.14, 0.16, 0.18, 0.20, 0.22),
}
"""The means that earn a 10, a 9, ... and a 2, by metric."""

LONG_AESTHETIC = (0.70, 0.65, 0.60, 0.55, 0.50, 0.45, 0.40, 0.45, 0.40)
"""The thresholds of ``aesthetic`` for long videos; ratings 3 and 2 cannot occur."""

SHORT_WEIGHTS: dict[str, float] = {
    "aesthetic": 0.10,
    "motion_amplitude": 0.10,
    "motion_smoothness": 0.10,
    "semantic": 0.35,
    "naturalness": 0.35,
}

LONG_WEIGHTS: dict[str, float] = {
    "aesthetic": 0.03,
    "motion_amplitude": 0.03,
    "motion_smoothness": 0.03,
    "semantic": 0.255,
    "naturalness": 0.255,
    "drifting_aesthetic": 0.099,
    "drifting_motion_smoothness": 0.099,
    "drifting_semantic": 0.099,
    "drifting_naturalness": 0.099,
}


@dataclasses.dataclass(frozen=True)
class Total:
    """The weighted total of a model.

    Attributes:
      rating: ``sum(rating * weight)`` over the metrics that have a rating, to four decimals.
      possible: the total that tens in the same metrics would give.
      missing: metrics that have a weight and no rating; they add nothing to ``rating``.
    """

    rating: float
    possible: float
    missing: tuple[str, ...]

    @property
    def of_ten(self) -> float | None:
        """``rating`` over the weights of the metrics that are there, from 1 to 10; None without
        any.

        Totals over different metrics are not comparable: show ``missing`` beside it.
        """
        return round(RATING_SCALE * self.rating / self.possible, 4) if self.possible else None


def is_drift(metric: str) -> bool:
    """Whether a metric compares the beginning of a video with its end; lower is better then."""
    return metric.startswith("drifting_")


def weights(long: bool) -> dict[str, float]:
    """The weight of each metric in the total."""
    return LONG_WEIGHTS if long else SHORT_WEIGHTS


def rate(metric: str, mean: float, long: bool = True) -> int:
    """The rating, 1 to 10, of a metric's mean over all videos.

    Args:
      metric: one of :data:`THRESHOLDS`.
      mean: clamped to 0..1 first, as the benchmark does.
      long: whether the videos are long; it matters to ``aesthetic`` alone.

    Raises:
      BenchError: if the metric has no thresholds or the mean is not a number.
    """
    if metric not in THRESHOLDS:
        raise BenchError(f"{metric} has no rating; rated are {', '.join(THRESHOLDS)}")
    if math.isnan(mean):
        raise BenchError(f"the mean of {metric} is not a number: look for a video that failed")
    value = normalized(mean)
    thresholds = LONG_AESTHETIC if long and metric == "aesthetic" else THRESHOLDS[metric]
    for index, threshold in enumerate(thresholds):
        if value <= threshold if is_drift(metric) else value >= threshold:
            return RATING_SCALE - index
    return 1


def normalized(mean: float) -> float:
    """A mean clamped to 0..1."""
    return min(max(mean, 0.0), 1.0)


def rate_all(
    means: Mapping[str, float | None], long: bool = True, compatible: bool = False
) -> dict[str, int]:
    """The ratings of all metrics that have a mean.

    Args:
      means: by metric; None, like an absent metric, is left out, never rated 0.
      long: whether the videos are long.
      compatible: repeat the defect of the original script, which takes a mean of exactly zero for
        an absent one, except in drifts: the metric vanishes where it should be rated 1.

    Raises:
      BenchError: as :func:`rate`.
    """
    ratings = {}
    for metric, mean in means.items():
        vanishes = compatible and mean == 0 and not is_drift(metric)
        if mean is not None and not vanishes:
            ratings[metric] = rate(metric, mean, long)
    return ratings


def total(ratings: Mapping[str, int], long: bool = True) -> Total:
    """The weighted total of ratings; those without a weight, as drifts of short videos, are
    ignored.
    """
    table = weights(long)
    there = [metric for metric in table if metric in ratings]
    return Total(
        rating=round(sum((ratings[metric] * table[metric] for metric in there), 0.0), 4),
        possible=round(sum((RATING_SCALE * table[metric] for metric in there), 0.0), 4),
        missing=tuple(metric for metric in table if metric not in ratings),
    )


def rate_throughput(frames_per_second: float) -> int:
    """The rating, 1 to 10, of the speed of generation; it is no part of the total.

    Args:
      frames_per_second: end to end for one prompt at 384x640, text encoder and VAE included, after
        warm-up.
    """
    return min(max(math.ceil(frames_per_second / 3.2), 1), RATING_SCALE)
