"""Checkpoints of a run on a full or failing disk: one line in the place of Orbax's errors."""

import contextlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from helios_jax.writers import WriteError


def check_room(folder: Path, leaves: Mapping[str, Any]) -> None:
    """Refuse to begin a step that the disk has no room for.

    Raises:
      WriteError: saying how much is needed and how much there is.
    """
    arrays = [leaf for leaf in leaves.values() if isinstance(leaf, jax.Array)]
    own = [part.data.nbytes for leaf in arrays for part in leaf.addressable_shards]
    needed = sum(own) if jax.process_count() > 1 else sum(leaf.nbytes for leaf in arrays)
    with contextlib.suppress(OSError):  # said by whoever writes
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise WriteError(
                f"{folder} cannot be written: a step needs {needed / 2**20:.1f} MiB, and "
                f"{free / 2**20:.1f} MiB are free"
            )


@contextlib.contextmanager
def saving(folder: Path) -> Generator[None, None, None]:
    """Say in one line what a disk does not let Orbax do.

    Raises:
      WriteError: in the place of an error that a system's error has caused; others stay.
    """
    try:
        yield
    except Exception as error:
        reasons = [reason for cause in _causes(error) if (reason := _reason(cause))]
        if not reasons:
            raise
        raise WriteError(f"{folder} cannot be written: {reasons[0]}") from error


@contextlib.contextmanager
def without_tracebacks() -> Generator[None, None, None]:
    """Keep the threads of Orbax and TensorStore from printing pages after a write has failed: they
    log the error that is raised, too, and call an event loop that was closed.
    """
    before = sys.unraisablehook
    loggers = [logging.getLogger("absl"), logging.getLogger("asyncio")]

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def keep(record: logging.LogRecord) -> bool:
        lost = "exception was never retrieved" in record.getMessage()
        return not (lost or (record.exc_info and "orbax" in record.pathname))

    sys.unraisablehook = hook
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
        sys.unraisablehook = before


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it has caused or holds together, and so on."""
    seen = set()
    queue: list[BaseException | None] = [error]
    while queue:
        found = queue.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        queue += [found.__cause__, found.__context__, *getattr(found, "exceptions", ())]


def _reason(error: BaseException) -> str:
    """What the system said, if this is an error of it."""
    if isinstance(error, OSError) and error.errno:
        return error.strerror or os.strerror(error.errno)
    match = re.search(r"\[OS error \d+: (?:E[A-Z]+ )?([^\]]+)\]", str(error))
    return match[1] if match else ""
