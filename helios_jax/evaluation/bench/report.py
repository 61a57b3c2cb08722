"""The report: one HTML page without external parts."""

import base64
import functools
import html
import itertools
import string
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from helios_jax.evaluation.bench import charts, ratings
from helios_jax.evaluation.bench.charts import Dot, Line, key, number
from helios_jax.evaluation.bench.free import ABOUT, CHUNK
from helios_jax.evaluation.bench.metrics import METRICS
from helios_jax.evaluation.bench.report_text import (
    ABOUT_WORLD,
    CURVES,
    DASH,
    FREE_TABLE,
    TITLES,
    conditions_text,
    csv_report,
    ends,
    footer,
    free_names,
    lead,
    markdown_report,
    notes_on,
    rated,
    sibling_names,
    sibling_title,
)
from helios_jax.evaluation.bench.score import WORLD
from helios_jax.evaluation.bench.summary import LEAST_SHARE, Estimate, Summary
from helios_jax.writers import write_whole, writing

TEMPLATES = resources.files("helios_jax.evaluation.bench")
IMAGE_BYTES = 1_300_000
"""Of frames in a page at most, so that it can be sent around."""
EXTREMES = 3
"""Prompts that are shown as the worst, and as many as the best."""


def html_report(
    models: Sequence[Summary], title: str = "HeliosBench", shown: int = 24, note: str = ""
) -> str:
    """The page.

    Args:
      models: in the order of the tables.
      title: of the page.
      shown: prompts whose frames are shown at most; the worst and the best always are.
      note: what else a reader should know, said above everything.
    """
    template = (TEMPLATES / "report.html").read_text(encoding="utf-8")
    items = [f"<li>{key(i)}{_words(model.name)}</li>" for i, model in enumerate(models)]
    sections = (
        _totals_section,
        _ratings_section,
        _siblings_section,
        _world_section,
        _curves_section,
        _scatter_section,
        _free_section,
        functools.partial(_prompts_section, shown=shown),
        _conditions_section,
    )
    return string.Template(template).substitute(
        title=_words(title),
        lead=_words(f"{lead(models)} {note}".strip()),
        legend=f'<ul class="legend">{"".join(items)}</ul>',
        sections="\n".join(section(models) for section in sections),
        footer="Made by <code>helios-jax bench compare</code>. " + _words(footer(models)),
    )


def _totals_section(models: Sequence[Summary]) -> str:
    """The table of models: total, the weights it is over, and each metric."""
    names = rated(models)
    if not names:
        return ""
    heads = ["model", "total", *(TITLES[name] for name in names)]
    fast = any(model.throughput for model in models)
    heads += ["throughput"] if fast else []
    best, worst = {}, {}
    for name in names:
        best[name] = max(model.ratings.get(name, 0) for model in models)
        worst[name] = min(model.ratings.get(name, 11) for model in models)
    rows = []
    for model in models:
        estimates = model.estimates()
        cells = [_words(model.name), _total_cell(model)]
        for name in names:
            if name not in model.ratings:
                reason = model.conditions.get("skipped", {}).get(name, "not measured")
                cells.append(f'<span class="skip" title="{_words(reason)}">{DASH}</span>')
                continue
            rating = model.ratings[name]
            leads = rating == best[name] > worst[name]
            kind = "best" if leads else "rating"
            found = estimates[name]
            values = f"<small>{number(found.mean)}</small><small>{ends(found)}</small>"
            cells.append(f'<span class="{kind}">{rating}</span>{values}')
        if fast:
            speed = model.throughput
            rating = str(ratings.rate_throughput(speed)) if speed else DASH
            cells.append(f"{rating}<small>{number(speed) if speed else ''}</small>")
        rows.append(cells)
    missing = sorted(set().union(*(model.total.missing for model in models)))
    notes = [_weights_text(models[0])]
    if fast:
        notes.append("Throughput, in frames per second end to end, is no part of the total.")
    if missing:
        notes.append(
            f"Not measured for every model: {', '.join(TITLES[name] for name in missing)}. What is "
            "missing is left out of a total, never counted as zero; totals over different weights "
            "are not comparable."
        )
    paragraphs = "".join(f'<p class="note">{_words(note)}</p>' for note in notes)
    return f"<section><h2>Totals and ratings</h2>{paragraphs}{_table(heads, rows)}</section>"


def _weights_text(model: Summary) -> str:
    weights = ratings.weights(model.long)
    parts = (f"{TITLES[name]} {weight:g}" for name, weight in weights.items())
    return f"Ratings from 1 to 10, weights {', '.join(parts)}."


def _total_cell(model: Summary) -> str:
    share = f"<small>{model.share:.0%} of the weights</small>"
    if model.total.of_ten is None or model.share < LEAST_SHARE:
        reason = "less than half of the weights are measured"
        return f'<span class="skip" title="{reason}">{DASH}</span>{share}'
    return f'<span class="total">{model.total.of_ten:.2f}</span>{share}'


def _ratings_section(models: Sequence[Summary]) -> str:
    names = rated(models)
    if len(names) < 2:
        return ""
    rows = []
    for name in names:
        dots = []
        for place, model in enumerate(models):
            if name in model.ratings:
                rating = float(model.ratings[name])
                about = f"{model.name}, {TITLES[name]}: {rating:.0f} of 10"
                dots.append(Dot(place, model.name, rating, 0.0, about))
        rows.append((TITLES[name], dots))
    chart = charts.scale_chart("Ratings", rows, 1, 10, "The figures stand in the table above.")
    return f'<section><figure class="wide">{chart}</figure></section>'


def _siblings_section(models: Sequence[Summary]) -> str:
    """What stands beside figures that say less than their names."""
    estimates = [model.siblings() for model in models]
    names = sibling_names(models)
    if not names:
        return ""
    rows = []
    for model, found in zip(models, estimates):
        cells = [_words(model.name)]
        for name in names:
            there = found.get(name)
            cells.append(f"{number(there.mean) if there else DASH}<small>{ends(there)}</small>")
        rows.append(cells)
    note = (
        "What stands beside figures of the benchmark that say less than their names; a drift here "
        "is signed, the last 15 % less the first: below 0 the video gets worse."
    )
    items = ""
    for name in names:
        metric, sibling = name.split(".")
        about = METRICS[metric].siblings[sibling]
        items += f"<dt>{_words(sibling_title(name))}</dt><dd>{_words(about)}</dd>"
    heads = ["model", *map(sibling_title, names)]
    return (
        f'<section><h2>Beside the ratings</h2><p class="note">{_words(note)}</p>'
        f'{_table(heads, rows)}<details><summary class="note">What they mean</summary>'
        f'<dl class="note">{items}</dl></details></section>'
    )


def _world_section(models: Sequence[Summary]) -> str:
    """What the world's judge reads: one row a model, a column for each attribute."""
    judged = [m for m in models if WORLD in m.results and m.results[WORLD].videos]
    if not judged:
        return ""
    first = judged[0].results[WORLD].videos[0]
    names = list(first.get("attributes", {}))
    rows = []
    for model in judged:
        videos = model.results[WORLD].videos
        found = model.estimates()[WORLD]
        drift = sum(video["signed_drift"] for video in videos) / len(videos)
        cells = [_words(model.name), f"{found.mean:.0%}<small>{_percent(found)}</small>"]
        cells.append(f"{100 * drift:+.0f}".replace("-", charts.MINUS))
        for name in names:
            right = sum(video["attributes"][name][0] for video in videos)
            asked = sum(video["attributes"][name][1] for video in videos)
            cells.append(f"{right / asked:.0%}" if asked else DASH)
        rows.append(cells)
    note = (
        f"{ABOUT_WORLD.capitalize()}, chunk by chunk; drift is the last 15 % of chunks less the "
        "first, in points. It has no rating and no weight."
    )
    heads = ["model", "as captioned", "drift", *names]
    return (
        f"<section><h2>What the captions ask for</h2>"
        f'<p class="note">{_words(note)}</p>{_table(heads, rows)}</section>'
    )


def _curves_section(models: Sequence[Summary]) -> str:
    found = [model.curves() for model in models]
    panels = []
    for name, title in CURVES.items():
        lines = []
        for place, curves in enumerate(found):
            if name in curves:
                curve = curves[name]
                seconds = [frame / models[place].fps for frame in curve.frames]
                ends = (curve.low, curve.high)
                lines.append(Line(place, models[place].name, seconds, curve.mean, *ends))
        if lines and max(len(line.x) for line in lines) > 1:
            about = "; ".join(
                f"{line.name} goes from {number(line.y[0])} to {number(line.y[-1])}"
                for line in lines
            )
            chart = charts.line_chart(title, lines, "seconds", about)
            panels.append(f"<figure><h3>{_words(title)}</h3>{chart}</figure>")
    if not panels:
        return ""
    note = (
        f"Each point is a chunk of {CHUNK} frames: how far the videos that are so long are from "
        "their own first chunk, on top of the mean of all first chunks. Bands hold the middle half "
        "of the videos; on the right there are fewer."
    )
    return (
        f'<section><h2>Drift over time</h2><p class="note">{_words(note)}</p>'
        f'<div class="panels">{"".join(panels)}</div></section>'
    )


def _scatter_section(models: Sequence[Summary]) -> str:
    totals = sum(model.share >= LEAST_SHARE for model in models) > 1
    y_title = "total, of 10" if totals else f"{TITLES[WORLD]}, share"
    dots = []
    for place, model in enumerate(models):
        value = _quality(model, totals)
        if model.throughput and value is not None:
            about = f"{model.name}: {number(model.throughput)} frames/s, {number(value)}"
            dots.append(Dot(place, model.name, model.throughput, value, about))
    if not dots:
        return ""
    about = "; ".join(dot.about for dot in dots)
    x_title = "frames per second, end to end"
    chart = charts.scatter_chart("Throughput and quality", dots, x_title, y_title, about)
    machines = {model.conditions["generation"].get("machine", "") for model in models
                if "generation" in model.conditions}  # fmt: skip
    note = f"Up and to the right is better. Measured on {'; '.join(sorted(machines - {''}))}."
    return (
        f'<section><h2>Throughput and quality</h2><p class="note">{_words(note)}</p>'
        f'<figure class="wide">{chart}</figure></section>'
    )


def _quality(model: Summary, totals: bool) -> float | None:
    """The total, or what the world's judge finds; None where it is not measured."""
    if totals:
        return model.total.of_ten if model.share >= LEAST_SHARE else None
    return model.results[WORLD].mean if WORLD in model.results else None


def _free_section(models: Sequence[Summary]) -> str:
    names = free_names(models)
    if not names:
        return ""
    estimates = [model.free_estimates() for model in models]
    rows = []
    for model, found in zip(models, estimates):
        cells = [_words(model.name)]
        for name in names:
            there = found.get(name)
            middle = number(there.mean) if there else DASH
            cells.append(f"{middle}<small>{ends(there)}</small>")
        rows.append(cells)
    rows_of_all = itertools.chain.from_iterable(model.free for model in models)
    flows = sorted({row["flow"] for row in rows_of_all})
    notes = ["Of every frame, without any network. Drift is the last 15 % less the first."]
    if len(flows) > 1:
        notes.append(f"Motion was measured by different methods ({', '.join(flows)}).")
    items = "".join(
        f"<dt>{_words(FREE_TABLE[name])}</dt><dd>{_words(ABOUT[name])}</dd>" for name in names
    )
    heads = ["model", *(FREE_TABLE[name] for name in names)]
    paragraphs = "".join(f'<p class="note">{_words(note)}</p>' for note in notes)
    return (
        f"<section><h2>Measures without weights</h2>{paragraphs}{_table(heads, rows)}"
        f'<details><summary class="note">What they mean</summary><dl class="note">{items}</dl>'
        "</details></section>"
    )


def _prompts_section(models: Sequence[Summary], shown: int) -> str:
    """Frames of every prompt, the worst and the best first."""
    numbers = sorted(set().union(*(model.numbers() for model in models)))
    worst, best, ordered_by = _extremes(models, numbers)
    others = [number for number in numbers if number not in (*worst, *best)]
    room = max(shown - len(worst) - len(best), 0)
    chosen = [*((n, "worst") for n in worst), *((n, "best") for n in best)]
    chosen += [(n, "") for n in others[:room]]
    blocks: list[str] = []
    spent = 0
    for place, rank in chosen:
        strips = {i: strip for i, model in enumerate(models) if (strip := model.strip(place))}
        size = sum(map(len, strips.values()))
        if spent + size > IMAGE_BYTES:
            break
        spent += size
        blocks.append(_prompt_block(models, place, rank, strips))
    if not blocks:
        return ""
    notes = [f"Worst and best by {ordered_by}, mean over models."] if ordered_by else []
    if left := len(numbers) - len(blocks):
        notes.append(f"{left} more prompts are not shown.")
    note = f'<p class="note">{_words(" ".join(notes))}</p>' if notes else ""
    return f"<section><h2>Prompts</h2>{note}{''.join(blocks)}</section>"


def _extremes(
    models: Sequence[Summary], numbers: Sequence[int]
) -> tuple[list[int], list[int], str | None]:
    """The numbers of the worst and the best prompts, and what they are ordered by."""
    quality = next((model.quality for model in models if model.quality), None)
    if quality is None:
        return [], [], None
    means: dict[int, float] = {}
    for number_ in numbers:
        found = [model.figures_of(number_).get(quality) for model in models]
        values = [value for value in found if value is not None]
        if values:
            means[number_] = sum(values) / len(values)
    count = min(EXTREMES, len(means) // 2)
    ordered = sorted(means, key=lambda each: means[each])
    best = ordered[-count:][::-1] if count else []
    return ordered[:count], best, TITLES[quality]


def _prompt_block(
    models: Sequence[Summary], place: int, rank: str, strips: Mapping[int, bytes]
) -> str:
    prompt = next((model.prompts[place] for model in models if place in model.prompts), "")
    tag = ""
    if rank:
        tag = f'<span class="rank {"bad" if rank == "worst" else "good"}">{rank}</span>'
    takes = []
    for i, model in enumerate(models):
        figures = model.figures_of(place)
        said = [f"{row['num_frames']:,} frames" for row in model.free if row["id"] == place]
        said += [f"{TITLES[name]} {number(value)}" for name, value in figures.items()]
        words = _words(" · ".join(said))
        image = '<div class="none">no frames kept</div>'
        if i in strips:
            data = base64.b64encode(strips[i]).decode()
            about = _words(f"frames of {model.name} for prompt {place}", quote=True)
            image = f'<img alt="{about}" loading="lazy" src="data:image/webp;base64,{data}">'
        head = f"<div><b>{key(i)}{_words(model.name)}</b></div>"
        tail = f'<p class="note">{words}</p>' if words else ""
        takes.append(f'<div class="take">{head}<div>{image}{tail}</div></div>')
    text = f"<p>{tag}<b>{place}</b> {_words(prompt)}</p>"
    return f'<div class="prompt">{text}{"".join(takes)}</div>'


def _conditions_section(models: Sequence[Summary]) -> str:
    items = "".join(
        f"<dt>{_words(model.name)}</dt><dd>{_words(conditions_text(model))}</dd>"
        for model in models
    )
    notes = "".join(f"<li>{_words(note)}</li>" for note in notes_on(models))
    tail = f'<ul class="note">{notes}</ul>' if notes else ""
    return f"<section><h2>Conditions</h2><dl>{items}</dl>{tail}</section>"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already; heads are words."""
    head = "".join(f'<th scope="col">{_words(text)}</th>' for text in heads)
    body = ""
    for row in rows:
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _percent(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"[{found.low:.0%}, {found.high:.0%}]"


def _words(text: str, quote: bool = True) -> str:
    return html.escape(text, quote=quote)


def write_report(
    models: Sequence[Summary], stem: Path, title: str, shown: int = 24, note: str = ""
) -> list[Path]:
    """Write ``stem.html``, ``.md`` and ``.csv``, each whole or not at all; returns their paths."""
    texts = {
        ".html": html_report(models, title, shown, note),
        ".md": markdown_report(models, title, note),
        ".csv": csv_report(models),
    }
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        paths.append(path)
    return paths
