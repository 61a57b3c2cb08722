"""What the folder of a model holds, brought together: the figures that reports show."""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.evaluation.bench import ratings as tables
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import (
    GENERATION,
    SCORE_KEYS,
    MetricResults,
    read_folder,
    read_free,
    read_notes,
)
from helios_jax.evaluation.bench.free import CHUNK
from helios_jax.evaluation.bench.metrics import METRICS
from helios_jax.evaluation.bench.prompts import TABLE, read_prompts
from helios_jax.evaluation.bench.score import CONDITIONS, FREE_FILE, STRIPS, WORLD

QUALITY = ("semantic", "naturalness", "aesthetic", WORLD)
"""What prompts are ordered by: the first of them that is measured."""
LEAST_SHARE = 0.5
"""A total over less than half the weights says little, and is not given."""
FPS = 24.0
"""Where the results do not say."""
DRAWS = 2000
"""Of the bootstrap."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over videos with its 95 % interval, by bootstrap; of one video there is none."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Curve:
    """How videos change over time, at the middles of chunks: mean and quartiles of the videos."""

    frames: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The results of one model.

    Attributes:
      name: of its folder.
      folder: where the results are.
      results: by metric.
      free: rows of the free measures.
      failed: how many videos failed, by metric.
      prompts: by number, where they are known.
      conditions: of scoring and, under "generation", of making the videos.
      long: whether the weights are those of long videos.
    """

    name: str
    folder: Path
    results: Mapping[str, MetricResults]
    free: Sequence[Mapping[str, Any]]
    failed: Mapping[str, int]
    prompts: Mapping[int, str]
    conditions: Mapping[str, Any]
    long: bool
    compatible: bool = False

    @functools.cached_property
    def ratings(self) -> dict[str, int]:
        """By metric, of those that have a rating."""
        means = {name: self.results[name].mean for name in SCORE_KEYS if name in self.results}
        return tables.rate_all(means, self.long, self.compatible)

    @property
    def total(self) -> tables.Total:
        return tables.total(self.ratings, self.long)

    @property
    def share(self) -> float:
        """The part of all weights that is measured."""
        whole = sum(tables.weights(self.long).values()) * tables.RATING_SCALE
        return self.total.possible / whole

    @property
    def throughput(self) -> float | None:
        """Frames per second end to end, median of the videos made after the first."""
        return self.conditions.get("generation", {}).get("frames per second")

    @property
    def fps(self) -> float:
        """Frames per second of the videos; a model's differ little."""
        rates = [row["fps"] for row in self.free if row.get("fps")]
        return float(np.median(rates)) if rates else FPS

    def estimates(self) -> dict[str, Estimate]:
        """Means of HeliosBench's metrics and of the world's judge, by metric."""
        found = {}
        for name, results in self.results.items():
            values = [float(video[results.key]) for video in results.videos if results.key in video]
            if values:
                found[name] = estimate(values)
        return found

    def siblings(self) -> dict[str, Estimate]:
        """Means of the figures that stand beside a metric's own, by ``metric.figure``."""
        found = {}
        for name in [name for name in self.results if name in METRICS]:
            for sibling in METRICS[name].siblings:
                rows = [video for video in self.results[name].videos if sibling in video]
                if rows:
                    found[f"{name}.{sibling}"] = estimate([float(row[sibling]) for row in rows])
        return found

    def free_estimates(self) -> dict[str, Estimate]:
        """Means of the free measures, by name."""
        values: dict[str, list[float]] = {}
        for row in self.free:
            for name, value in row["values"].items():
                values.setdefault(name, []).append(value)
        return {name: estimate(found) for name, found in values.items()}

    def curves(self) -> dict[str, Curve]:
        """Free measures, and the metrics that have curves, over time."""
        found: dict[str, list[Sequence[float]]] = {}
        for name, results in self.results.items():
            found[name] = [video["curve"] for video in results.videos if "curve" in video]
        for row in self.free:
            for name, curve in row["curves"].items():
                found.setdefault(name, []).append(curve)
        return {name: average(curves) for name, curves in found.items() if any(curves)}

    @property
    def quality(self) -> str | None:
        """The metric that prompts are ordered by."""
        return next((name for name in QUALITY if name in self.results), None)

    def figures_of(self, number: int) -> dict[str, float]:
        """The figures of a video, by metric."""
        found = {}
        for name, results in self.results.items():
            for video in results.videos:
                if video["id"] == number and results.key in video:
                    found[name] = float(video[results.key])
        return found

    def strip(self, number: int) -> bytes | None:
        """Frames of a video side by side, WebP."""
        path = self.folder / STRIPS / f"{number}.webp"
        return path.read_bytes() if path.is_file() else None

    def restricted(self, numbers: Collection[int]) -> "Summary":
        """The same over some of the videos; means that a file gave are computed anew."""
        results = {}
        for name, found in self.results.items():
            videos = tuple(video for video in found.videos if video["id"] in numbers)
            results[name] = dataclasses.replace(found, videos=videos, average=None)
        free = [row for row in self.free if row["id"] in numbers]
        return dataclasses.replace(self, results=results, free=free)

    def numbers(self) -> list[int]:
        """Of all videos with any result."""
        rows = itertools.chain.from_iterable(found.videos for found in self.results.values())
        return sorted({row["id"] for row in (*rows, *self.free)})


def read_model(folder: str | Path, long: bool = True, compatible: bool = False) -> Summary:
    """Everything in the folder of a model, ours or the original's.

    Raises:
      BenchError: if it holds no result, or a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BenchError(f"{folder}: there is no such folder of results")
    free: Sequence[Mapping[str, Any]] = ()
    failed_free: Sequence[Mapping[str, Any]] = ()
    if (folder / FREE_FILE).is_file():
        free, failed_free = read_free(folder / FREE_FILE)
    results = {}
    if any(folder.glob("*_results.json")) or not (folder / FREE_FILE).is_file():
        results = read_folder(folder)
    conditions = read_notes(folder / CONDITIONS)
    if generation := read_notes(folder / GENERATION):
        conditions = {**conditions, "generation": generation}
    failed = {name: len(found.failed) for name, found in results.items() if found.failed}
    if failed_free:
        failed["free"] = len(failed_free)
    return Summary(
        name=folder.resolve().name,
        folder=folder,
        results=results,
        free=free,
        failed=failed,
        prompts=_prompts(folder, results),
        conditions=conditions,
        long=long,
        compatible=compatible,
    )


def common(models: Sequence[Summary]) -> list[Summary]:
    """The models over the videos that all of them have, so that their means compare.

    Raises:
      BenchError: if there is no such video.
    """
    numbers = set.intersection(*(set(model.numbers()) for model in models))
    if not numbers:
        raise BenchError("the models have no prompt in common: compare them without --common")
    return [model.restricted(numbers) for model in models]


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean, and where 95 % of the means of as many values drawn with repetition lie."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Estimate(float(array.mean()), None, None, len(array))
    draws = np.random.default_rng(seed).integers(0, len(array), (DRAWS, len(array)))
    low, high = np.quantile(array[draws].mean(1), [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def average(curves: Sequence[Sequence[float]], chunk: int = CHUNK) -> Curve:
    """Curves of videos of any length as one.

    Each video counts by how far it is from its own first chunk, on top of the mean of all first
    chunks: otherwise the curve would jump where a short video ends.
    """
    curves = [curve for curve in curves if len(curve)]
    start = float(np.mean([curve[0] for curve in curves]))
    longest = max(map(len, curves))
    changes = []
    for i in range(longest):
        changes.append([curve[i] - curve[0] for curve in curves if len(curve) > i])
    return Curve(
        frames=[(i + 0.5) * chunk for i in range(longest)],
        mean=[start + float(np.mean(change)) for change in changes],
        low=[start + float(np.quantile(change, 0.25)) for change in changes],
        high=[start + float(np.quantile(change, 0.75)) for change in changes],
    )


def _prompts(folder: Path, results: Mapping[str, MetricResults]) -> dict[int, str]:
    """From the table beside the results, or from rows that carry their prompt."""
    if (folder / TABLE).is_file():
        return {prompt.number: prompt.text for prompt in read_prompts(folder / TABLE)}
    rows = itertools.chain.from_iterable(found.videos for found in results.values())
    return {row["id"]: row["prompt"] for row in rows if "prompt" in row}
