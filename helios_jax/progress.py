"""Progress of long work: a bar on a terminal or in a notebook, a plain line now and then elsewhere.

Everything goes to standard error, so that standard output can be a video.
"""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINE_SECONDS = 30.0
"""Between two plain lines; work that is done before the first of them says nothing."""


class Progress:
    """How far a piece of work is::

        with Progress("sampling", total=44, unit="chunk") as progress:
            for chunk in chunks:
                progress.update()

    On a terminal and in a notebook this is one line that changes. Anywhere else, as in a log file,
    it is a new line every :data:`LINE_SECONDS`: ``sampling: 12 of 44 chunks, 01:31``.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None = None,
        initial: int = 0,
        unit: str = "",
        hidden: bool = False,
    ):
        """Begin.

        Args:
          label: what is done.
          total: units of all the work, where that is known.
          initial: units that were done before.
          unit: of the count; "B" counts bytes.
          hidden: show nothing.
        """
        self.count = initial
        self._label = label
        self._total = total
        self._unit = unit
        self._note = ""
        self._began = time.perf_counter()
        self._lines = not (hidden or _can_rewrite())
        self._ended = threading.Event()
        self._bar = tqdm(
            desc=label,
            total=total,
            initial=initial,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            disable=hidden or self._lines,
            dynamic_ncols=True,
            leave=None,
        )
        if self._lines:  # a thread, because one step may compile for minutes
            threading.Thread(target=self._print_lines, daemon=True).start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End: nothing is shown from here on."""
        self._ended.set()
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Count units that are done."""
        self.count += count
        self._bar.update(count)

    def describe(self, label: str) -> None:
        """Change what is said to be done."""
        self._label = label
        self._bar.set_description(label, refresh=False)

    def note(self, text: str) -> None:
        """Change what stands beside the count, as a loss or a speed."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._lines:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._began

    def _print_lines(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        """The label, the count, the time and the note."""
        scale = tqdm.format_sizeof if self._unit == "B" else str
        parts = []
        if self._unit:
            of = f" of {scale(self._total)}" if self._total else ""
            parts.append(f"{scale(self.count)}{of} {self._unit}")
        parts.append(tqdm.format_interval(self.seconds))
        if self._note:
            parts.append(self._note)
        return f"{self._label}: {', '.join(parts)}"


def track(
    items: Iterable[Item], label: str, *, total: int | None = None, unit: str = ""
) -> Iterator[Item]:
    """The items one by one, with their progress."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.update()


def _can_rewrite() -> bool:
    """Whether standard error shows a line that changes: a terminal, or a notebook's cell."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
