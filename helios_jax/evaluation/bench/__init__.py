"""HeliosBench: how good long videos are, and whether they stay so (the benchmark of Helios).

``METRICS`` is the table of metrics, :mod:`~.ratings` turns their means into ratings and totals,
:mod:`~.files` reads and writes the JSON files of the original.
"""

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import MetricResults, merge, read_folder, write_results
from helios_jax.evaluation.bench.metrics import METRICS, Metric, find_metrics
from helios_jax.evaluation.bench.models import Models, find_weights
from helios_jax.evaluation.bench.ratings import Total, rate, rate_all, rate_throughput, total
from helios_jax.evaluation.bench.video import FrameVideo, Video

__all__ = [
    "METRICS",
    "BenchError",
    "FrameVideo",
    "Metric",
    "MetricResults",
    "Models",
    "Total",
    "Video",
    "find_metrics",
    "find_weights",
    "merge",
    "rate",
    "rate_all",
    "rate_throughput",
    "read_folder",
    "total",
    "write_results",
]
