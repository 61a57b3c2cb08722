"""Measuring what models make: the judge of the procedural world, and HeliosBench.

:mod:`.nano` evaluates a model of the procedural world, part by part; :mod:`.bench` rates videos of
any model.
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names

if TYPE_CHECKING:
    from helios_jax.evaluation.judge import accuracy, interval, read_clip, score
    from helios_jax.evaluation.measures import frame_difference, psnr, statistics
    from helios_jax.evaluation.nano import PARTS, EvaluationConfig, judge_clips
    from helios_jax.evaluation.report import Results, load_results

_HOMES = {
    "EvaluationConfig": "nano",
    "PARTS": "nano",
    "Results": "report",
    "accuracy": "judge",
    "frame_difference": "measures",
    "interval": "judge",
    "judge_clips": "nano",
    "load_results": "report",
    "psnr": "measures",
    "read_clip": "judge",
    "score": "judge",
    "statistics": "measures",
}
"""The module of each public name."""

__all__ = [
    "PARTS",
    "EvaluationConfig",
    "Results",
    "accuracy",
    "frame_difference",
    "interval",
    "judge_clips",
    "load_results",
    "psnr",
    "read_clip",
    "score",
    "statistics",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
