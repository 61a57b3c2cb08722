"""What a run prints and logs of its steps."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from helios_jax.data.loading import Batches
from helios_jax.errors import HeliosError
from helios_jax.progress import Progress
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import peak_operations
from helios_jax.training.metrics import Metrics
from helios_jax.training.objectives import find_objective
from helios_jax.types import Params


class DivergedError(HeliosError, RuntimeError):
    """Training cannot go on."""

    exit_status = 1


class StepResult(NamedTuple):
    """The metrics of a step that may still be running, and the shapes of its batch."""

    metrics: dict[str, jax.Array]
    batch: Any


def say(text: str) -> None:
    """Print a line, once for all processes."""
    if jax.process_index() == 0:
        print(text, flush=True)


class ProgressLogger:
    """Logs steps, with the time they took, to whoever watches and to the metrics.

    Args:
      config: of the run.
      trainable: what trains.
      batches: that the run trains on.
      shown: how far the run is.
      metrics: of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        trainable: Params,
        batches: Batches,
        shown: Progress,
        metrics: Metrics,
    ):
        self._config = config
        self._objective = find_objective(config)
        self._trainable = jax.tree.map(jax.typeof, trainable)
        self._batches = batches
        self._shown = shown
        self._metrics = metrics
        self._peak = peak_operations()
        self._compiled = False
        self._restart()

    def log(
        self,
        done: int,
        result: StepResult | None,
        evaluations: Sequence[Callable[[], dict[str, Any]]] = (),
    ) -> None:
        """Log step ``done`` if it has not been logged, run the evaluations, and keep their time out
        of the step time.

        Args:
          done: steps taken.
          result: of the last of them; None if it has been logged.
          evaluations: each returns metrics.

        Raises:
          DivergedError: if too many steps, one after another, had no effect.
        """
        values = {}
        if result is not None:
            values = {name: leaf.item() for name, leaf in jax.device_get(result.metrics).items()}
            values["replaced_records"] = self._batches.replaced
            self._count(result.batch)
            if not self._compiled:  # the first step's time is the compiler's
                self._compiled = True
                self._restart()
        if values.get("skipped_in_a_row", 0) >= self._config.max_skipped:
            self._metrics.write(done, values)
            raise DivergedError(
                f"loss or gradient was not finite in {self._config.max_skipped} steps, one after "
                f"another, up to step {done}"
            )
        if not evaluations and (result is None or done % self._config.log_every):
            return
        if self._steps:
            values |= self._speed()
        if "loss" in values:
            self._shown.note(_summary(values))
        found = {}
        for evaluate in evaluations:
            found |= {name: float(value) for name, value in evaluate().items()}
        if found:
            line = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            self._shown.say(f"step {done}: {line}")
        self._metrics.write(done, values | found)
        self._restart()

    def _count(self, batch: Any) -> None:
        """Count a step on a batch of these shapes."""
        cost = self._objective.cost(self._config, self._trainable, batch)
        samples = batch.sample.shape[0]
        self._steps += 1
        self._tokens += samples * cost.tokens
        self._operations += samples * cost.operations
        self._shown.update()

    def _speed(self) -> dict[str, float]:
        """What the steps since the last line took."""
        seconds = time.perf_counter() - self._began
        values = {
            "step_seconds": seconds / self._steps,
            "tokens_per_second": self._tokens / seconds,
        }
        if self._operations:
            values["teraflops"] = self._operations / seconds / 1e12
        if self._operations and self._peak:
            values["utilisation"] = self._operations / seconds / self._peak
        return values

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._steps = 0
        self._tokens = 0
        self._operations = 0


def _summary(values: dict[str, Any]) -> str:
    """What stands beside the progress bar."""
    parts = [f"loss {values['loss']:.4f}"]
    if "tokens_per_second" in values:
        parts.append(f"{values['tokens_per_second']:.0f} tokens/s")
    if "teraflops" in values:
        parts.append(f"{values['teraflops']:.3g} TFLOP/s")
    if "utilisation" in values:
        parts.append(f"{values['utilisation']:.1%} of peak")
    return ", ".join(parts)
