"""The figures of the page *How it works*, computed by the library's own functions and written as
SVG. ``conf.py`` calls :func:`write_figures`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helios_jax.config import SchedulerConfig
from helios_jax.diffusion.pyramid import renoise_weights
from helios_jax.diffusion.schedules import make_noise_schedule, stage_tables
from helios_jax.diffusion.solvers import solver_table

WIDTH = 640
HEIGHT = 260
LEFT = 56
BOTTOM = 44
TOP = 26
COLORS = ("#1f6fb2", "#c8501e", "#2b8a3e", "#8a4fb0")

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Points of each curve, by its name."""


def write_figures(folder: Path) -> None:
    """Write all figures."""
    folder.mkdir(exist_ok=True)
    (folder / "stages.svg").write_text(
        plot(noise_levels(), "step of the chunk", "noise level of the whole path"), encoding="utf-8"
    )
    (folder / "timesteps.svg").write_text(
        plot(timesteps(), "step of a stage", "timestep the network is given"), encoding="utf-8"
    )
    (folder / "solvers.svg").write_text(
        plot(solver_errors(), "steps (log 2)", "error of a Gaussian's end point (log 10)"),
        encoding="utf-8",
    )


def noise_levels() -> Curves:
    """From the start to the end of each stage; renoising leads back up between two."""
    curves = {}
    for stage, table in enumerate(stage_tables(SchedulerConfig())):
        points = np.linspace(table.start_sigma, table.end_sigma, 11)
        curves[f"stage {stage}"] = [(10 * stage + i, float(p)) for i, p in enumerate(points)]
    return curves


def timesteps() -> Curves:
    """Twenty steps of each stage at 384 x 640."""
    curves = {}
    for stage in range(3):
        schedule = make_noise_schedule(SchedulerConfig(), stage, 20, 8640)
        curves[f"stage {stage}"] = [(i, float(t)) for i, t in enumerate(schedule.timesteps)]
    return curves


def solver_errors() -> Curves:
    """How far a solver ends from where the flow of a Gaussian of deviation 0.5 does."""
    curves = {}
    for solver in ("euler", "dpmpp_2m", "unipc"):
        points = []
        for steps in (4, 8, 16, 32, 64):
            error = abs(_end_point(solver, steps) - 0.5)
            points.append((float(np.log2(steps)), float(np.log10(error))))
        curves[solver] = points
    return curves


def _end_point(solver: str, steps: int) -> float:
    """Where a path that begins at 1 ends, by the columns of the solver's table."""
    sigmas = np.linspace(0.999, 0, steps + 1)
    table = solver_table(solver, sigmas)
    x, last, older, newer = 1.0, 0.0, 0.0, 0.0
    for i, sigma in enumerate(sigmas[:-1]):
        data = x * (1 - sigma) * 0.25 / ((1 - sigma) ** 2 * 0.25 + sigma**2)
        corrected = float(np.dot(table.correct[i], (x, last, older, newer, data)))
        x = float(np.dot(table.predict[i], (corrected, newer, data, 1.0, 0.0)))
        last, older, newer = corrected, newer, data
    return x


def plot(curves: Curves, across: str, up: str) -> str:
    """Curves with axes, labels and a legend, as SVG."""
    points = np.array([point for curve in curves.values() for point in curve])
    low = points.min(0)
    span = np.maximum(points.max(0) - low, 1e-9)
    room = (WIDTH - LEFT - 16, HEIGHT - TOP - BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 16}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT + room[0] / 2}" y="{HEIGHT - 8}" text-anchor="middle">{across}</text>',
        f'<text x="14" y="{TOP + room[1] / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {TOP + room[1] / 2})">{up}</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        x = LEFT + share * room[0]
        y = HEIGHT - BOTTOM - share * room[1]
        value = low + share * span
        parts.append(
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value[0]:.4g}</text>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value[1]:.3g}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        places = (np.array(curve) - low) / span * room
        line = " ".join(f"{LEFT + x:.1f},{HEIGHT - BOTTOM - y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        x = LEFT + 8 + 110 * number
        parts.append(f'<path d="M{x} 12h18" stroke="{color}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24}" y="16">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def renoising_table() -> list[tuple[float, float, float]]:
    """Noise level at the end of a stage, and the weights of latents and noise that follow."""
    rows = []
    for table in stage_tables(SchedulerConfig())[1:]:
        alpha, beta = renoise_weights(table.original_start_sigma, SchedulerConfig().gamma)
        rows.append((table.original_start_sigma, alpha, beta))
    return rows
