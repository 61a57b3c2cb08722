"""How a signal ends a command, so that unfinished files are removed."""

import contextlib
import math
import signal
import sys
import threading
import time
import types
from collections.abc import Generator
from typing import Any

CLEANING_S = 0.5
"""Seconds in which a second signal does not end a command that the first one ends."""


class _Unwinding:
    """A signal's handler that raises what ends the command. Those that come soon after it, as from
    a key that is pressed twice, are dropped: they would end its cleaning up.
    """

    def __init__(self) -> None:
        self.since = -math.inf

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        now = time.monotonic()
        if now - self.since < CLEANING_S:
            return
        self.since = now
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


def _signal_again(number: int) -> None:
    """Send a signal to the main thread, whatever it waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # on Windows
        signal.raise_signal(number)


@contextlib.contextmanager
def terminable() -> Generator[None, None, None]:
    """Let SIGTERM, and SIGHUP of a terminal that is closed, unwind so that unfinished files are
    removed; what they and Ctrl-C did before, they do again after the block.

    Python drops what is raised in a finalizer, in the callback of a weak reference and while it
    collects garbage, and gives it to ``sys.unraisablehook``: a signal that came then comes again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)  # under nohup it is ignored
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    unwind = _Unwinding()
    noting = threading.Event()
    ended = threading.Event()

    def send_again(number: int) -> None:
        while noting.is_set():  # what is raised in the hook itself is lost
            time.sleep(0.01)
        time.sleep(0.01)
        if not ended.is_set():
            unwind.since = -math.inf
            _signal_again(number)

    def raise_again(dropped: Any) -> None:
        status = getattr(dropped.exc_value, "code", None)
        if dropped.exc_type is KeyboardInterrupt:
            status = 128 + signal.SIGINT
        came = [number for number in numbers if status == 128 + number]
        if not came:
            hook(dropped)
            return
        noting.set()
        try:
            threading.Thread(target=send_again, args=came, daemon=True).start()
        finally:
            noting.clear()

    for number in (number for number in numbers if number != signal.SIGINT):
        signal.signal(number, unwind)
    if before[signal.SIGINT] is signal.default_int_handler:
        signal.signal(signal.SIGINT, unwind)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        ended.set()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
