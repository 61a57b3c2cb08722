"""The JSON files of HeliosBench: the original scripts read ours, and we read theirs.

Of a model there is a folder with ``<metric>_results.json`` for each metric and, once merged,
``merged_results.json``; of several models ``all_models_merged.json``. We write the keys that the
original writes, and others beside them, which its scripts pass over.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helios_jax import readers
from helios_jax.evaluation.bench import ratings
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.writers import write_whole, writing

NOTES: dict[str, tuple[type, ...]] = {
    "conditions": (dict,),
    "date": (str,),
    "frames per second": (int, float),
    "machine": (str,),
    "made": (list,),
    "metrics": (list,),
    "skipped": (dict,),
    "versions": (dict, str),
}
"""Types of what stands in ``conditions.json`` and ``generation.json``."""

MAX_BYTES = 256 * readers.MIB
"""Of a result file."""

SCORE_KEYS: dict[str, str] = {
    "aesthetic": "aesthetic_score",
    "motion_amplitude": "motion_fb",
    "motion_smoothness": "motion_smoothness_score",
    "semantic": "semantic_score",
    "naturalness": "naturalness_score",
    "drifting_aesthetic": "drift_aesthetic_score",
    "drifting_motion_smoothness": "drift_motion_smoothness_score",
    "drifting_semantic": "drift_semantic_score",
    "drifting_naturalness": "drift_naturalness_score",
}
"""The key of a video's value in the file of each metric of the original."""

DRIFT_DESCRIPTION = "Start-end contrast of {} (first/last 15% frames)"
MERGED = "merged_results.json"
GENERATION = "generation.json"
"""Of a folder of videos: conditions and times of making them."""
ALL_MODELS = "all_models_merged.json"


@dataclasses.dataclass(frozen=True)
class MetricResults:
    """The values of one metric for the videos of one model: one result file.

    Attributes:
      metric: its name, the stem of the file: ``"motion_amplitude"``.
      videos: one row a video: ``id`` (int), ``video_name`` and figures by name, among them the one
        that is averaged, ``key``.
      failed: rows of videos without a value: ``id``, ``video_name`` and ``error``. The original
        leaves such videos out of the mean without a word.
      average: the mean, where it was read from a file; else None, and ``mean`` computes it.
      judge: the model that answered, of metrics that need one.
      frames_per_video: frames that it was shown.
    """

    metric: str
    videos: tuple[Mapping[str, Any], ...]
    failed: tuple[Mapping[str, Any], ...] = ()
    average: float | None = None
    judge: str | None = None
    frames_per_video: int | None = None

    @property
    def key(self) -> str:
        """The key of the figure that is averaged."""
        return SCORE_KEYS.get(self.metric, f"{self.metric}_score")

    @property
    def mean(self) -> float | None:
        """The plain mean over videos; None where there is none, which is not zero."""
        if self.average is not None or not self.videos:
            return self.average
        return sum(float(video[self.key]) for video in self.videos) / len(self.videos)


def result_path(folder: str | os.PathLike, metric: str) -> Path:
    """The result file of a metric in the folder of a model."""
    return Path(folder) / f"{metric}_results.json"


def write_results(folder: str | os.PathLike, results: MetricResults) -> Path:
    """Write the result file of a metric, whole or not at all, and return its path."""
    metric = results.metric
    content: dict[str, Any] = {"metric": "motion_fb" if metric == "motion_amplitude" else metric}
    if ratings.is_drift(metric):
        about = metric.removeprefix("drifting_").replace("_", " ")
        content["description"] = DRIFT_DESCRIPTION.format(about)
    content[_average_key(metric)] = dataclasses.replace(results, average=None).mean
    content["num_videos"] = len(results.videos)
    if results.judge is not None:
        content["model_name"] = results.judge
    if results.frames_per_video is not None:
        content["num_frames_per_video"] = results.frames_per_video
    content["per_video_results"] = [dict(video) for video in results.videos]
    if results.failed:
        content["failed_videos"] = [dict(video) for video in results.failed]
    return write_json(result_path(folder, metric), content)


def read_results(path: str | os.PathLike) -> MetricResults:
    """Read a result file, ours or the original's; the name of the file says which metric it is of.

    Raises:
      BenchError: if the file is not the result file of a metric.
    """
    path = Path(path)
    content = read_json(path)
    metric = path.name.removesuffix("_results.json")
    average = content.get(_average_key(metric))
    try:
        videos = read_rows(content["per_video_results"])
        key = MetricResults(metric, ()).key
        for video in videos:
            if not math.isfinite(float(video.get(key, 0))):
                raise ValueError(f"{key} of video {video['id']} is no finite number")
        if average is not None and not math.isfinite(float(average)):
            raise ValueError("its average is no finite number")
        judge = content.get("model_name")
        if not isinstance(judge, str | None):
            raise TypeError("its model_name is no text")
        return MetricResults(
            metric=metric,
            videos=videos,
            failed=read_rows(content.get("failed_videos", [])),
            average=None if average is None else float(average),
            judge=judge,
            frames_per_video=content.get("num_frames_per_video"),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BenchError(
            f"{path} is not a result file of HeliosBench ({type(error).__name__}: {error})"
        ) from error


def read_rows(rows: Any) -> tuple[dict[str, Any], ...]:
    """The rows of a result file: mappings, each with the number of its video.

    Raises:
      TypeError: if they are something else.
    """
    if not isinstance(rows, list):
        raise TypeError("its videos are no list")
    for row in rows:
        if not isinstance(row, dict) or type(row.get("id")) is not int:
            raise TypeError("a row has no id, a whole number")
        if not isinstance(row.get("video_name", ""), str):
            raise TypeError(f"video_name of video {row['id']} is no text")
        if not isinstance(row.get("error", ""), str):
            raise TypeError(f"error of video {row['id']} is no text")
    return tuple(rows)


def read_notes(path: Path) -> dict[str, Any]:
    """What a folder says of its conditions, of scoring or of making the videos; nothing if the file
    is not there.

    Raises:
      BenchError: if it holds something else.
    """
    if not path.is_file():
        return {}
    content = read_json(path)
    for name, types in NOTES.items():
        if name in content and not isinstance(content[name], types):
            kinds = " or ".join(kind.__name__ for kind in types)
            raise BenchError(f"{path} is damaged: its {name!r} is no {kinds}")
    if not all(isinstance(reason, str) for reason in content.get("skipped", {}).values()):
        raise BenchError(f"{path} is damaged: a reason in 'skipped' is no text")
    return content


def read_free(path: Path) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """The rows of the free measures, and those of videos that could not be measured.

    Raises:
      BenchError: if they are something else.
    """
    content = read_json(path)
    try:
        rows = read_rows(content.get("per_video_results", []))
        for row in rows:
            values = [*row["values"].values()]
            for curve in row["curves"].values():
                values += curve
            values += [row["width"], row["height"], row.get("fps") or 0.0]
            if not all(math.isfinite(float(value)) for value in values):
                raise ValueError(f"a measure of video {row['id']} is no finite number")
        return rows, read_rows(content.get("failed_videos", []))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BenchError(
            f"{path} is no file of measures ({type(error).__name__}: {error})"
        ) from error


def read_folder(folder: str | os.PathLike) -> dict[str, MetricResults]:
    """All result files in the folder of a model, by metric, in the order of the tables.

    Raises:
      BenchError: if there is none, or one cannot be read.
    """
    names = (path.name for path in Path(folder).glob("*_results.json"))
    found = {name.removesuffix("_results.json") for name in names if name != MERGED}
    if not found:
        raise BenchError(f"{folder} has no *_results.json: score the videos of a model first")
    order = [*(metric for metric in SCORE_KEYS if metric in found), *sorted(found - {*SCORE_KEYS})]
    return {metric: read_results(result_path(folder, metric)) for metric in order}


def merge(
    results: Mapping[str, MetricResults], long: bool = True, compatible: bool = False
) -> dict[str, Any]:
    """The content of ``merged_results.json`` from the results of a model.

    ``total_weighted_rating`` is the original's: what is missing adds nothing. Beside it stand
    ``possible_rating``, ``missing`` and ``total_of_ten`` (:class:`~.ratings.Total`).

    Args:
      results: by metric; those that have no rating are left out.
      long: whether the videos are long.
      compatible: repeat the original's defect (:func:`~.ratings.rate_all`).

    Raises:
      BenchError: if a mean is not a number.
    """
    means = {metric: results[metric].mean for metric in SCORE_KEYS if metric in results}
    rated = ratings.rate_all(means, long, compatible)
    summary: dict[str, dict[str, Any]] = {"non_drifting": {}, "drifting": {}}
    for metric, rating in rated.items():
        mean = means[metric]
        assert mean is not None  # what has no mean has no rating
        summary["drifting" if ratings.is_drift(metric) else "non_drifting"][metric] = {
            "name": metric.replace("_", " ").title(),
            "raw_score": mean,
            "normalized_score": ratings.normalized(mean),
            "rating": rating,
            "num_videos": len(results[metric].videos),
        }
    total = ratings.total(rated, long)
    return {
        "rating_scale": ratings.RATING_SCALE,
        "summary": {**summary, "total_weighted_rating": total.rating},
        "per_video": {},
        "weights": "long" if long else "short",
        "possible_rating": total.possible,
        "total_of_ten": total.of_ten,
        "missing": list(total.missing),
    }


SCORE_TYPES = {"raw": "raw_score", "normalized": "normalized_score", "rating": "rating"}
"""The kinds of value that ``all_models_merged.json`` may hold, and their keys in a summary."""


def merge_models(
    merged: Mapping[str, Mapping[str, Any]], score_type: str = "rating"
) -> dict[str, Any]:
    """The content of ``all_models_merged.json``.

    Args:
      merged: the content of each model's ``merged_results.json``, by the name of its folder.
      score_type: one of :data:`SCORE_TYPES`.
    """
    total = "total_weighted_rating"
    models = {}
    metrics = set()
    for name, content in merged.items():
        summary = content["summary"]
        rows = {**summary["non_drifting"], **summary["drifting"]}
        values = {metric: row[SCORE_TYPES[score_type]] for metric, row in rows.items()}
        models[name] = {**values, total: summary[total]}
        metrics |= {*values}
    content = {
        "num_models": len(models),
        "score_type": score_type,
        "metrics": [*sorted(metrics), total],
        "models": models,
    }
    if score_type == "rating":
        content["rating_scale"] = ratings.RATING_SCALE
    return content


def read_merged(path: str | os.PathLike) -> dict[str, Any]:
    """Read ``merged_results.json``, ours or the original's.

    Raises:
      BenchError: if the file is something else.
    """
    content = read_json(Path(path))
    summary = content.get("summary")
    parts = ("non_drifting", "drifting", "total_weighted_rating")
    if not isinstance(summary, dict) or any(part not in summary for part in parts):
        raise BenchError(f"{path} is not the {MERGED} of a model: merge its results again")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      BenchError: if it cannot be read or holds something else.
    """
    try:
        content = readers.read_json(path, MAX_BYTES)
    except readers.ReadError as error:
        raise BenchError(f"{path} is not JSON: {error.reason}") from error
    if not isinstance(content, dict):
        raise BenchError(f"{path} does not hold a JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> Path:
    """Write JSON as the original does, whole or not at all, and return the path."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())
    return path


def _average_key(metric: str) -> str:
    return "average_drift_score" if ratings.is_drift(metric) else "average_score"
