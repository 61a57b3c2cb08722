"""Where the time of a request goes, compile time apart."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any

import jax


class Stopwatch:
    """Seconds by part, while it is entered::

        with Stopwatch() as stopwatch:
            with stopwatch("vae") as done:
                frames = done(decode(latents))

    ``done`` waits for arrays, so that the work is charged to the part that asked for it. Tracing
    and compilation, which JAX reports, are counted under "compile" and not in the part they
    happened in; what other threads compile meanwhile is not counted. Before it is entered nothing
    waits and nothing is counted.

    Attributes:
      seconds: by part; "stage k" are the transformer's pyramid stages.
      running: whether it is entered.
      by_stage: whether the parts of a chunk are wanted; a command that does not want them keeps the
        stopwatch to itself, so that nothing waits.
    """

    def __init__(self, by_stage: bool = True):
        self.by_stage = by_stage
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = False
        self._compilations: list[tuple[float, float]] = []
        self._thread: int | None = None

    def __enter__(self) -> "Stopwatch":
        self.running = True
        self._thread = threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._count_compilation)
        return self

    def __exit__(self, *_: Any) -> None:
        self.running = False
        jax.monitoring.unregister_event_duration_listener(self._count_compilation)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Generator[Callable[[Any], Any], None, None]:
        """Charge the time inside to ``part``."""
        if not self.running:
            yield lambda arrays: arrays
            return
        began = time.perf_counter()
        compiled = self.seconds["compile"]
        try:
            yield jax.block_until_ready
        finally:
            elapsed = time.perf_counter() - began
            self.seconds[part] += elapsed - (self.seconds["compile"] - compiled)

    def _count_compilation(self, event: str, duration_secs: float, **_: Any) -> None:
        """JAX reports a phase when it ends; a function traced inside another is reported before the
        one around it.
        """
        if not event.startswith("/jax/core/compile/") or threading.get_ident() != self._thread:
            return
        end = time.perf_counter()
        start = end - duration_secs
        inside = [span for span in self._compilations if span[0] >= start]
        del self._compilations[len(self._compilations) - len(inside) :]
        self._compilations.append((start, end))
        self.seconds["compile"] = sum(end - start for start, end in self._compilations)
