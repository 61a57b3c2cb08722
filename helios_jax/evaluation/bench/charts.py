"""Charts as SVG to stand inside an HTML page, drawn by hand: lines, dots on a scale, a scatter.

Colours are classes, ``c0`` to ``c7``, that the page gives its meaning in light and in dark; each
model also has a dash and a shape, so that nothing depends on colour alone.
"""

import dataclasses
import html
import itertools
import math
from collections.abc import Sequence

DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "1 4", "4 2 1 2", "10 2 2 2")
"""Of the lines of the first to the eighth model."""
COLORS = len(DASHES)
Number = int | float
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a model: means at ``x`` and, where there are several videos, how they spread."""

    model: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Dot:
    """A value of a model, with what a pointer resting on it is told."""

    model: int
    name: str
    x: float
    y: float
    about: str


@dataclasses.dataclass(frozen=True)
class Scale:
    """Brings values from ``low`` to ``high`` to places from ``start`` to ``end``."""

    low: Number
    high: Number
    start: float
    end: float

    def __call__(self, value: Number) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def ticks(low: Number, high: Number, count: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, some ``count`` of them."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(round(number * step, 12)) for number in range(first, last + 1)]


def number(value: Number, digits: int = 3) -> str:
    """A number for people: three digits that count, no exponent where it can be helped."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else NONE
    if 1e-4 <= abs(value) < 1e5:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        text = f"{value:,.{min(decimals, 6)}f}"
        return text.replace("-", MINUS)
    return f"{value:.{digits - 1}e}".replace("-", MINUS)


def labels(values: Sequence[Number]) -> list[str]:
    """Ticks as text, all with as many decimals as the distance between them needs."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=abs(values[0]) or 1)
    decimals = next((n for n in range(7) if abs(round(step, n) - step) < 1e-3 * step), 7)
    return [f"{value:,.{decimals}f}".replace("-", MINUS) for value in values]


def line_chart(title: str, lines: Sequence[Line], x_title: str, describe: str = "") -> str:
    """Curves over time, with a band where several videos are behind a line."""
    width = 360.0
    height = 190.0
    left = 52.0
    right = 10.0
    top = 12.0
    bottom = 32.0
    low = min(min(line.low) for line in lines)
    high = max(max(line.high) for line in lines)
    margin = (high - low) * 0.06 or max(abs(high) * 0.05, 1e-6)
    low = low - margin
    high = high + margin
    last = max(max(line.x) for line in lines) or 1.0
    to_x = Scale(0, last, left, width - right)
    to_y = Scale(low, high, height - bottom, top)
    parts = _open(width, height, title, describe)
    for value, label in _ticks(low, high, 4):
        parts.append(_grid(left, to_y(value), width - right, to_y(value)))
        parts.append(_text(left - 6, to_y(value) + 3.5, label, "end"))
    for value, label in _ticks(0, last, 5):
        parts.append(_text(to_x(value), height - bottom + 15, label, "middle"))
    parts.append(_text((left + width - right) / 2, height - 3, x_title, "middle"))
    for line in lines:
        if any(up > down for up, down in zip(line.high, line.low)):
            around = [*zip(line.x, line.high), *reversed([*zip(line.x, line.low)])]
            points = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in around)
            parts.append(f'<polygon class="band c{line.model % COLORS}" points="{points}"/>')
    for line in lines:
        about = f"{line.name}: {number(line.y[0])} at first, {number(line.y[-1])} at last"
        color = f"c{line.model % COLORS}"
        if len(line.x) == 1:
            parts.append(_mark(line.model, to_x(line.x[0]), to_y(line.y[0]), about))
            continue
        points = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in zip(line.x, line.y))
        dash = DASHES[line.model % COLORS]
        parts.append(
            f'<polyline class="line {color}" stroke-dasharray="{dash}" points="{points}">'
            f"<title>{html.escape(about)}</title></polyline>"
        )
    return "".join([*parts, "</svg>"])


def scale_chart(
    title: str, rows: Sequence[tuple[str, Sequence[Dot]]], low: Number, high: Number, describe: str
) -> str:
    """Rows of dots on one scale, a row for each metric; models that agree stand side by side."""
    width = 720.0
    step = 34.0
    left = 210.0
    right = 24.0
    top = 26.0
    height = top + step * len(rows) + 8
    to_x = Scale(low, high, left, width - right)
    parts = _open(width, height, title, describe)
    for value, label in _ticks(low, high, 9):
        parts.append(_grid(to_x(value), top, to_x(value), height - 8))
        parts.append(_text(to_x(value), top - 9, label, "middle"))
    for place, (label, dots) in enumerate(rows):
        y = top + step * (place + 0.5)
        parts.append(_text(left - 18, y + 4, label, "end", "label"))
        parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        for dot in dots:
            same = [other for other in dots if abs(to_x(other.x) - to_x(dot.x)) < 13]
            shift = 13 * (same.index(dot) - (len(same) - 1) / 2)
            parts.append(_mark(dot.model, to_x(dot.x) + shift, y, dot.about))
    return "".join([*parts, "</svg>"])


def scatter_chart(
    title: str, dots: Sequence[Dot], x_title: str, y_title: str, describe: str
) -> str:
    """Dots with their models' names: how fast against how good."""
    width = 720.0
    height = 330.0
    left = 62.0
    right = 20.0
    top = 24.0
    bottom = 46.0
    x_high = max(dot.x for dot in dots) * 1.08 or 1.0
    low = min(dot.y for dot in dots)
    high = max(dot.y for dot in dots)
    margin = (high - low) * 0.25 or max(abs(high) * 0.1, 0.05)
    low = low - margin
    high = high + margin
    to_x = Scale(0, x_high, left, width - right)
    to_y = Scale(low, high, height - bottom, top)
    parts = _open(width, height, title, describe)
    for value, label in _ticks(low, high, 5):
        parts.append(_grid(left, to_y(value), width - right, to_y(value)))
        parts.append(_text(left - 8, to_y(value) + 4, label, "end"))
    for value, label in _ticks(0, x_high, 6):
        parts.append(_grid(to_x(value), top, to_x(value), height - bottom))
        parts.append(_text(to_x(value), height - bottom + 17, label, "middle"))
    parts.append(_text((left + width - right) / 2, height - 6, x_title, "middle"))
    parts.append(_text(left, top - 6, y_title, "start"))
    for dot in dots:
        parts.append(_mark(dot.model, to_x(dot.x), to_y(dot.y), dot.about, 7))
        beyond = to_x(dot.x) + 13 + 7 * len(dot.name) > width  # a letter is 7 wide at most
        side, anchor = (-13, "end") if beyond else (13, "start")
        parts.append(_text(to_x(dot.x) + side, to_y(dot.y) + 4, dot.name, anchor, "label"))
    return "".join([*parts, "</svg>"])


def key(model: int) -> str:
    """The line and the shape of a model, for a legend."""
    color = f"c{model % COLORS}"
    dash = DASHES[model % COLORS]
    return (
        '<svg class="key" viewBox="0 0 34 14" aria-hidden="true">'
        f'<line class="line {color}" stroke-dasharray="{dash}" x1="1" x2="33" y1="7" y2="7"/>'
        f"{_mark(model, 17, 7, '')}</svg>"
    )


def _ticks(low: Number, high: Number, count: int) -> list[tuple[float, str]]:
    values = ticks(low, high, count)
    return list(zip(values, labels(values)))


def _open(width: float, height: float, title: str, describe: str) -> list[str]:
    label = html.escape(f"{title}. {describe}".strip(), quote=True)
    return [f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">']


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    words = html.escape(text)
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _mark(model: int, x: Number, y: Number, about: str, size: Number = 5.5) -> str:
    """The shape of a model: circle, square, diamond, triangle."""
    color = f"mark c{model % COLORS}"
    shape = model % 4
    title = f"<title>{html.escape(about)}</title>" if about else ""
    if shape == 0:
        return f'<circle class="{color}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{title}</circle>'
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        3: ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    }[shape]
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon class="{color}" points="{points}">{title}</polygon>'
