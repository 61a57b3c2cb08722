"""Where the time of a request goes, compile time apart."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax


class Stopwatch:
    """Seconds by part, while it is entered::

        with Stopwatch() as stopwatch:
            with stopwatch("vae") as done:
                frames = done(decode(latents))

    ``done`` waits for arrays, so that the work is charged to the part that asked for it. Tracing
    and compilation, which JAX reports, are counted under "compile" and not in the part they
    happened in. Before it is entered nothing waits and nothing is counted.

    Attributes:
      seconds: by part; "stage k" are the transformer's pyramid stages.
      running: whether it is entered.
    """

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = False
        self._compilations: list[tuple[float, float]] = []

    def __enter__(self) -> "Stopwatch":
        self.running = True
        jax.monitoring.register_event_duration_secs_listener(self._count_compilation)
        return self

    def __exit__(self, *_: Any) -> None:
        self.running = False
        jax.monitoring.unregister_event_duration_listener(self._count_compilation)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[Callable[[Any], Any]]:
        """Charge the time inside to ``part``."""
        if not self.running:
            yield lambda arrays: arrays
            return
        began, compiled = time.perf_counter(), self.seconds["compile"]
        try:
            yield jax.block_until_ready
        finally:
            self.seconds[part] += time.perf_counter() - began - (self.seconds["compile"] - compiled)

    def _count_compilation(self, event: str, seconds: float, **_: Any) -> None:
        """JAX reports a phase when it ends; a function traced inside another is reported before the
        one around it.
        """
        if event.startswith("/jax/core/compile/"):
            end = time.perf_counter()
            self._compilations = [
                span for span in self._compilations if span[0] < end - seconds
            ] + [(end - seconds, end)]
            self.seconds["compile"] = sum(end - start for start, end in self._compilations)
