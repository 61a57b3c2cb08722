"""Processes that are killed at a chosen moment, as a machine that goes down kills them."""

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

LIBRARY = Path(__file__).parents[1] / "helios_jax"

PRELOADED = ["helios_jax.commands.sample", "helios_jax.commands.encode"]
"""Modules that a new process has already imported: it starts within a tenth of a second."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def start(function: Callable[..., Any], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A process that runs a function of a module."""
    process = CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def start_command(argv: Sequence[str], log: Path) -> multiprocessing.process.BaseProcess:
    """A process that runs ``helios-jax ARGV``; what it says as error is in the file ``log``."""
    return start(run_command, list(argv), log)


def run_command(argv: list[str], log: Path, file_bytes: int = 0) -> None:
    """The body of such a process, which can write no file of more than ``file_bytes``, if given."""
    for stream, path in ((1, log.with_suffix(".out")), (2, log)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    command = importlib.import_module(f"helios_jax.commands.{argv[0].replace('-', '_')}")
    status = command.main([f"helios-jax {argv[0]}", *argv[1:]])
    print(f"{time.process_time():.1f} s of processors")
    sys.exit(status)


def die_at_line(number: int, files: Sequence[str]) -> None:
    """Kill this process before the ``number``-th line of some files of the library is run, by
    threads that are started from now on and by this one.
    """
    wanted = {str(LIBRARY / file) for file in files}
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in wanted:
            return None
        if event == "line":
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
