"""Metrics of a run: one line of JSON a step, always; TensorBoard and Weights & Biases on request;
by the main process only.
"""

import contextlib
import importlib
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from helios_jax.config import ConfigError
from helios_jax.readers import ReadError
from helios_jax.writers import write_whole, writing

log = logging.getLogger(__name__)

Sink = Callable[[int, Mapping[str, Any]], None]
"""``(step, numbers) -> None``."""


class Metrics:
    """Writes the metrics of a run.

    Args:
      folder: the run's; holds ``metrics.jsonl``, ``tensorboard/`` and ``wandb/``.
      step: steps taken so far: lines of later steps, by a run that did not get to save them, are
        cut off.
      tensorboard: write TensorBoard's files, too.
      wandb: arguments of ``wandb.init``, such as ``{"project": "helios"}``, to log there, too; a
        resumed run goes on with its own ``id``.

    Raises:
      ConfigError: if a package that was asked for is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        step: int = 0,
        *,
        tensorboard: bool = False,
        wandb: Mapping[str, Any] | None = None,
    ):
        self._sinks: list[Sink] = []
        self._closers: list[Callable[[], Any]] = []
        if jax.process_index() != 0:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sinks = [_tensorboard(folder, step)] if tensorboard else []
        sinks += [_wandb(folder, wandb)] if wandb is not None else []
        for write, close in [*sinks, _jsonl(folder / "metrics.jsonl", step)]:
            self._sinks.append(write)
            self._closers.append(close)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the numbers of a step, each a Python number or an array of one; a number that is
        not finite is ``null`` in the JSON.
        """
        if not self._sinks:
            return
        numbers = {
            name: value if isinstance(value, bool | int) else float(value)
            for name, value in values.items()
        }
        for sink in self._sinks:
            sink(step, numbers)

    def close(self) -> None:
        """Flush and close all files."""
        for close in self._closers:
            close()


def _jsonl(path: Path, step: int) -> tuple[Sink, Callable[[], Any]]:
    _cut(path, step)
    file = path.open("a", encoding="utf-8")  # stays open as long as the run

    def write(step: int, numbers: Mapping[str, Any]) -> None:
        finite = {
            name: number if math.isfinite(number) else None for name, number in numbers.items()
        }
        with writing(path):
            file.write(json.dumps({"step": step, **finite}) + "\n")
            file.flush()

    def close() -> None:
        with contextlib.suppress(OSError):  # of a line that could not be written, which was said
            file.close()

    return write, close


def _cut(path: Path, step: int) -> None:
    """Leave the whole lines up to ``step``: the last one is not whole if the run was killed while
    it was written.
    """
    if not path.exists():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ReadError(path, "it is not UTF-8 text; move it away to go on with the run") from error
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines:
        log.warning("%s: cut off %d lines of steps after %d", path, len(lines) - len(kept), step)
        write_whole(path, "".join(kept).encode())


def _step(line: str) -> int | float:
    """The step a line is of; infinity if the line is not whole, or no line of metrics."""
    if not line.endswith("\n"):
        return math.inf
    try:
        step = json.loads(line)["step"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf


def _tensorboard(folder: Path, step: int) -> tuple[Sink, Callable[[], Any]]:
    module = _import("tensorboardX", "writing for TensorBoard")
    writer = module.SummaryWriter(
        str(folder / "tensorboard"), purge_step=step + 1 if step else None
    )

    def write(step: int, numbers: Mapping[str, Any]) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)

    return write, writer.close


def _wandb(folder: Path, options: Mapping[str, Any]) -> tuple[Sink, Callable[[], Any]]:
    module = _import("wandb", "logging to Weights & Biases")
    identity = folder / "wandb_id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4))
    own = {"dir": str(folder), "name": folder.name, "id": identity.read_text(), "resume": "allow"}
    run = module.init(**own | dict(options))

    def write(step: int, numbers: Mapping[str, Any]) -> None:
        run.log(dict(numbers), step=step)

    return write, run.finish


def _import(package: str, what: str) -> ModuleType:
    """A package that is not among the requirements.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"{what} needs {package}, which is not installed: pip install {package}"
        ) from None
