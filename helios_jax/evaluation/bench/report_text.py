"""The figures of a report as Markdown and CSV, and the words that all reports share."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence

from helios_jax.evaluation.bench import charts, ratings
from helios_jax.evaluation.bench.charts import number
from helios_jax.evaluation.bench.files import SCORE_KEYS
from helios_jax.evaluation.bench.free import ABOUT
from helios_jax.evaluation.bench.metrics import METRICS
from helios_jax.evaluation.bench.score import WORLD
from helios_jax.evaluation.bench.summary import LEAST_SHARE, Estimate, Summary

DASH = charts.NONE
TITLES = {
    **{name: name.replace("drifting_", "drift: ").replace("_", " ") for name in SCORE_KEYS},
    WORLD: "as captioned",
}
ABOUT_WORLD = "share of a scene's attributes that the world's judge finds as the caption says"
SMALL = 320
"""Columns of a video below which enlarging it to 640 takes the texture that motion is seen by."""
CURVES = {
    WORLD: "as captioned, share",
    "aesthetic": "aesthetic",
    "motion_smoothness": "motion smoothness",
    "saturation": "saturation",
    "contrast": "contrast",
    "brightness": "brightness",
    "sharpness": "sharpness",
    "motion_length": "motion, pixels a frame",
    "change": "change from frame to frame",
}
"""The curves that are drawn, in this order."""
FREE_TABLE = {
    "motion_length": "motion",
    "flicker": "flicker",
    "sharpness": "sharpness",
    "saturation": "saturation",
    "drift_saturation": "saturation, drift",
    "drift_sharpness": "sharpness, drift",
    "drift_contrast": "contrast, drift",
    "seam": "seam",
    "static": "static",
    "loop_period": "loop",
    "psnr": "PSNR",
    "ssim": "SSIM",
}
"""The free measures of the table, and their short names."""


def footer(models: Sequence[Summary]) -> str:
    """What ratings and intervals are."""
    text = "Intervals are 95 %, by bootstrap over videos."
    if rated(models):
        text += " Ratings are HeliosBench's: of the mean over all videos, by its thresholds."
    return text


def markdown_report(models: Sequence[Summary], title: str = "HeliosBench", note: str = "") -> str:
    """The tables in Markdown, for a README; ``note`` is said above them."""
    lines = [f"# {title}", "", f"{lead(models)} {note}".strip(), ""]
    names = rated(models)
    if names:
        lines += _markdown_table(
            ["model", "total of 10", "weights measured", *(TITLES[name] for name in names)],
            [
                [model.name, total_text(model), f"{model.share:.0%}"]
                + [rating_text(model, name) for name in names]
                for model in models
            ],
        )
        lines += ["Each cell: rating (mean over videos).", ""]
    names = sibling_names(models)
    if names:
        estimates = [model.siblings() for model in models]
        rows = _interval_rows(models, estimates, names)
        lines += _markdown_table(["model", *map(sibling_title, names)], rows)
    if any(WORLD in model.results for model in models):
        lines += [f"As captioned: {ABOUT_WORLD}.", ""]
        estimates = [model.estimates().get(WORLD) for model in models]
        rows = [[m.name, interval(e)] for m, e in zip(models, estimates)]
        lines += _markdown_table(["model", "as captioned"], rows)
    names = free_names(models)
    if names:
        estimates = [model.free_estimates() for model in models]
        rows = _interval_rows(models, estimates, names)
        lines += _markdown_table(["model", *(FREE_TABLE[name] for name in names)], rows)
        lines += [f"* {FREE_TABLE[name]}: {ABOUT[name]}" for name in names] + [""]
    lines += ["## Conditions", ""]
    for model in models:
        lines += [f"* **{model.name}**: {conditions_text(model)}"]
    if notes := notes_on(models):
        lines += ["", *(f"* {note}" for note in notes)]
    lines += ["", footer(models)]
    return "\n".join(lines) + "\n"


def csv_report(models: Sequence[Summary]) -> str:
    """Every mean as a row: model, metric, mean, interval, rating, videos, failures."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["model", "metric", "mean", "low", "high", "rating", "videos", "failed"])
    for model in models:
        rows: list[tuple[str, Estimate, int]] = []
        for name, found in model.estimates().items():
            rows.append((name, found, model.failed.get(name, 0)))
        for name, found in model.siblings().items():
            rows.append((name, found, model.failed.get(name.split(".")[0], 0)))
        for name, found in model.free_estimates().items():
            rows.append((f"free.{name}", found, model.failed.get("free", 0)))
        for name, found, failed in rows:
            rating = model.ratings.get(name, "")
            values = [f"{found.mean:.6g}"]
            values += ["" if end is None else f"{end:.6g}" for end in (found.low, found.high)]
            table.writerow([model.name, name, *values, rating, found.count, failed])
        total = model.total
        of_ten = "" if total.of_ten is None else total.of_ten
        table.writerow([model.name, "total_of_ten", of_ten, "", "", "", "", ""])
        table.writerow([model.name, "weights_measured", f"{model.share:.4f}", "", "", "", "", ""])
    return file.getvalue()


def lead(models: Sequence[Summary]) -> str:
    """How many models, videos and frames."""
    counts = sorted({len(model.numbers()) for model in models})
    prompts = {tuple(model.numbers()) for model in models}
    measured = itertools.chain.from_iterable(model.free for model in models)
    frames = sorted({row["num_frames"] for row in measured})
    parts = [f"{len(models)} model{'s' if len(models) != 1 else ''}"]
    parts.append(f"{' or '.join(map(str, counts))} videos{' each' if len(models) > 1 else ''}")
    if frames:
        span = f"{frames[0]:,}" if len(frames) == 1 else f"{frames[0]:,} to {frames[-1]:,}"
        parts.append(f"{span} frames")
    if rated(models):
        parts.append(f"weights of {'long' if models[0].long else 'short'} videos")
    text = ", ".join(parts) + "."
    if len(prompts) > 1:
        text += " The models have videos of different prompts, so their means do not compare."
    return text


def rated(models: Sequence[Summary]) -> list[str]:
    """The metrics with a rating in any model, in the order of the tables."""
    return [name for name in SCORE_KEYS if any(name in model.ratings for model in models)]


def sibling_names(models: Sequence[Summary]) -> list[str]:
    """Of the figures beside the metrics' own that any model has, in the order of the tables."""
    there = set().union(*(model.siblings() for model in models))
    order: list[str] = []
    for name, metric in METRICS.items():
        order += [f"{name}.{sibling}" for sibling in metric.siblings]
    return [name for name in order if name in there]


def sibling_title(name: str) -> str:
    """``drifting_semantic.signed_drift`` in words."""
    metric, sibling = name.split(".")
    words = sibling.removesuffix("_score").replace("_", " ")
    if sibling == "signed_drift":
        return f"{metric.removeprefix('drifting_').replace('_', ' ')}, {words}"
    return words


def free_names(models: Sequence[Summary]) -> list[str]:
    there = set().union(*(model.free_estimates() for model in models))
    return [name for name in FREE_TABLE if name in there]


def total_text(model: Summary) -> str:
    if model.total.of_ten is None or model.share < LEAST_SHARE:
        return DASH
    return f"{model.total.of_ten:.2f}"


def rating_text(model: Summary, name: str) -> str:
    if name not in model.ratings:
        return DASH
    return f"{model.ratings[name]} ({number(model.estimates()[name].mean)})"


def conditions_text(model: Summary) -> str:
    """Everything that is known of how a model's results were made."""
    notes = dict(model.conditions)
    generation = dict(notes.pop("generation", {}))
    skipped = notes.pop("skipped", {})
    parts = [f"{name} {_listed(value)}" for name, value in notes.items()]
    made = {**generation.pop("conditions", {}), **generation}
    made.pop("made", None)  # seconds of every video
    if made:
        parts.append("made with " + ", ".join(f"{k} {_listed(v)}" for k, v in made.items()))
    for reason in dict.fromkeys(skipped.values()):
        names = [TITLES.get(name, name) for name, why in skipped.items() if why == reason]
        parts.append(f"skipped {', '.join(names)}: {reason}")
    if model.failed:
        counts = ", ".join(f"{count} of {name}" for name, count in model.failed.items())
        parts.append(f"failed: {counts}")
    return "; ".join(parts) or "not noted: the results come from another program"


def _listed(value: object) -> str:
    """A value of the conditions in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list):
        numbers = all(isinstance(each, int) for each in value)
        return ("-" if numbers else ", ").join(map(str, value))
    return str(value)


def notes_on(models: Sequence[Summary]) -> list[str]:
    """What a reader should know of the figures that are there."""
    there = set().union(*(model.results for model in models))
    notes = []
    if "motion_amplitude" in there:
        notes.append(
            "Motion amplitude averages signed flow, so that opposite motions cancel; "
            "mean flow length does not."
        )
        rows = itertools.chain.from_iterable(model.free for model in models)
        small = sorted({f"{row['width']}x{row['height']}" for row in rows if row["width"] < SMALL})
        if small:
            notes.append(
                f"Videos of {', '.join(small)} pixels were enlarged to 640 columns for it, as the "
                "original does: in pictures that soft it sees next to no motion. The measures "
                "without weights are of the videos' own size."
            )
    if "semantic" in there:
        notes.append("Semantic compares a video with the first 30 words of its prompt at most.")
    results = itertools.chain.from_iterable(model.results.values() for model in models)
    judges = sorted({found.judge for found in results if found.judge is not None})
    if judges:
        notes.append(
            f"Naturalness is what {', '.join(judges)} answered; answers of different "
            "judges are not comparable."
        )
    if any(ratings.is_drift(name) for name in there):
        notes.append(
            "Drift is the difference between the first and the last 15 % of frames: a video that "
            "stands still, or is bad from the first frame on, has none."
        )
    for name in [name for name in METRICS if name in there and not ratings.is_drift(name)]:
        notes.append(f"{TITLES[name].capitalize()}: {METRICS[name].description}.")
    return notes


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    return [*lines, ""]


def _interval_rows(
    models: Sequence[Summary], estimates: Sequence[Mapping[str, Estimate]], names: Sequence[str]
) -> list[list[str]]:
    """A row for each model: its name, and the interval of every figure."""
    rows = []
    for model, found in zip(models, estimates):
        rows.append([model.name, *(interval(found.get(name)) for name in names)])
    return rows


def interval(found: Estimate | None) -> str:
    if found is None:
        return DASH
    return f"{number(found.mean)} {ends(found)}".strip()


def ends(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"[{number(found.low, 2)}, {number(found.high, 2)}]"
