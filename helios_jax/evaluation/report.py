"""The results of an evaluation of a model of the procedural world: JSON, Markdown and curves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from helios_jax.errors import HeliosError
from helios_jax.evaluation.judge import ATTRIBUTES, interval
from helios_jax.readers import ReadError, read_json
from helios_jax.sampling.curves import save_curves
from helios_jax.writers import write_whole


class EvaluationError(HeliosError):
    """Results that an evaluation cannot go on with."""


class Results(NamedTuple):
    """Files of an evaluation: ``OUT.json``, ``OUT.md`` and, of long videos, ``OUT_long.svg``.

    Attributes:
      out: their path without a suffix.
      conditions: what the results were measured under.
      parts: the results of each part.
    """

    out: Path
    conditions: dict[str, Any]
    parts: dict[str, dict[str, Any]]

    @property
    def json(self) -> Path:
        """The file that an interrupted evaluation goes on from."""
        return self.out.with_name(f"{self.out.name}.json")

    def save(self) -> None:
        """Write the JSON file."""
        content = {"conditions": self.conditions, "results": self.parts}
        write_whole(self.json, f"{json.dumps(content, indent=1)}\n".encode())

    def write_page(self) -> None:
        """Write the Markdown page, and the curves where there are long videos."""
        lines = ["# What the judge reads in the videos of a helios-nano", "", *table(self.parts)]
        if "long" in self.parts:
            curves = self.out.with_name(f"{self.out.name}_long.svg")
            link = f"[{curves.name}]({curves.name})"
            lines += ["", f"Every chunk of the long videos, one colour a video: {link}."]
            save_curves(curves, [_curve(row) for row in self.parts["long"]["rows"]])
        lines += ["", "## Conditions", ""]
        lines += [f"* {name}: {value}" for name, value in self.conditions.items()]
        page = self.out.with_name(f"{self.out.name}.md")
        write_whole(page, ("\n".join(lines) + "\n").encode())


def load_results(out: Path, conditions: dict[str, Any], overwrite: bool) -> Results:
    """The results that are there already, or none yet.

    Args:
      out: see :class:`Results`.
      conditions: that results must have been measured under.
      overwrite: whether to begin anew.

    Raises:
      EvaluationError: if the file is damaged, or its results were measured under other conditions.
    """
    results = Results(out, conditions, {})
    if overwrite or not results.json.exists():
        return results
    try:
        content = read_json(results.json)
        there = content["conditions"]
        same = {**there, **json.loads(json.dumps(conditions))} == there
        results.parts.update(content["results"])
    except ReadError as error:
        raise EvaluationError(f"{error}; name another --out, or --overwrite") from error
    except (ValueError, TypeError, LookupError) as error:
        raise EvaluationError(
            f"{results.json} cannot be read: it holds no results; name another --out, or "
            "--overwrite"
        ) from error
    if not same:
        raise EvaluationError(
            f"{results.json} holds results made under other conditions: name another --out, or "
            "--overwrite"
        )
    return results


def table(parts: dict[str, dict[str, Any]]) -> list[str]:
    """The results as lines of Markdown."""
    names = [*ATTRIBUTES, "all"]
    lines = [
        f"| part | {' | '.join(names)} | 95 % interval of all |",
        f"|---|{'---|' * len(names)}---|",
    ]
    for part, found in parts.items():
        if counts := found.get("attributes"):
            cells = " | ".join(_percent(counts[name]) for name in names)
            low, high = interval(*counts["all"])
            lines.append(f"| {part} | {cells} | {low:.1%} to {high:.1%} |")
    lines.append("")
    for part, found in parts.items():
        if motions := found.get("motions"):
            kinds = ", ".join(f"{kind} {_percent(counts)}" for kind, counts in motions.items())
            lines.append(f"* {part}: motions by kind: {kinds}")
    for part, describe in _DESCRIPTIONS.items():
        if part in parts:
            lines += describe(parts[part])
    return lines


def _describe_vae(found: dict[str, Any]) -> Iterator[str]:
    yield f"* VAE: {found['psnr']:.1f} dB, at worst {found['worst psnr']:.1f} dB"


def _describe_image(found: dict[str, Any]) -> Iterator[str]:
    yield f"* image: the first frame is {found['first frame psnr']:.1f} dB from the picture"


def _describe_long(found: dict[str, Any]) -> Iterator[str]:
    first = _percent(found["first"])
    last = _percent(found["last"])
    yield f"* long: {first} right in the first 15 %, {last} in the last"
    seam = f"{found['seam']:.2f}"
    yield f"* long: from chunk to chunk, frames differ {seam} times as much as within one"
    for name, (before, after) in found["drift"].items():
        yield f"* long: {name} {before:.3f}, then {after:.3f}"


def _describe_speed(found: dict[str, Any]) -> Iterator[str]:
    transformer = found["seconds a chunk, transformer"]
    whole = found["seconds a chunk, all"]
    yield (
        f"* {transformer:.2f} s a chunk in the transformer, {whole:.2f} s in all, on "
        f"{found['machine']}"
    )


_DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "vae": _describe_vae,
    "image": _describe_image,
    "long": _describe_long,
    "speed": _describe_speed,
}


def _percent(counts: tuple[int, int] | list[int]) -> str:
    right, total = counts
    return f"{right / total:.1%}" if total else "-"


def _curve(row: dict[str, Any]) -> dict[str, Any]:
    """A chunk's statistics, and the share that the judge reads rightly."""
    values = {name: value for name, value in row.items() if name != "asked"}
    return values | {"right": row["right"] / row["asked"]}
