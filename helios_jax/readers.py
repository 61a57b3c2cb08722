"""Reading small files that people write: text, JSON, JSON lines, YAML and CSV, within limits.

Whatever the bytes, a reader returns plain values or raises :class:`ReadError`, soon and with little
memory: sizes are looked at before anything is read, and the message names the limit.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, TypeVar

import yaml

from helios_jax.errors import HeliosError

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB
TEXT_BYTES = 16 * MIB
"""Of a text, JSON or CSV file, unless its reader says otherwise."""
YAML_BYTES = 256 * KIB
"""Of a YAML file, which takes seconds a megabyte to parse."""
YAML_DEPTH = 50
"""Lists in lists of such a file."""
LINE_BYTES = MIB
"""Of a line of a file that is read line by line."""
ROWS = 100_000
"""Of a CSV file, unless its reader says otherwise."""


class ReadError(HeliosError, ValueError):
    """A file that cannot be read; the message names it and says why.

    Attributes:
      reason: why, without the file's name.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(path)} cannot be read: {reason}")
        self.reason = reason


def read_text(path: str | os.PathLike, limit: int = TEXT_BYTES) -> str:
    """The text of a UTF-8 file.

    Args:
      path: of the file.
      limit: bytes that it may have.

    Raises:
      ReadError: if it is missing, too large, or no UTF-8.
    """

    def read() -> str:
        with open(path, "rb") as file:
            content = file.read(limit + 1)  # no more, even of a pipe or a device
        if len(content) > limit:
            raise ValueError(f"it has more than {_size(limit)}")
        return content.decode("utf-8-sig")

    return _guarded(path, read)


def read_json(path: str | os.PathLike, limit: int = TEXT_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
      ReadError: if it is no JSON, or as :func:`read_text` says.
    """
    text = read_text(path, limit)
    return _guarded(path, lambda: json.loads(text))


def read_yaml(path: str | os.PathLike, limit: int = YAML_BYTES) -> Any:
    """The value of a YAML file without aliases.

    Raises:
      ReadError: if it is no such file, or as :func:`read_text` says.
    """
    text = read_text(path, limit)
    return _guarded(path, lambda: yaml.load(text, _Loader))


def read_json_lines(path: str | os.PathLike) -> Iterator[Any]:
    """The values of a file of JSON lines, one after another; empty lines are passed over.

    Raises:
      ReadError: if a line is too long or no JSON, or the file is missing or no UTF-8.
    """
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield _guarded(path, json.loads, line, where=f"line {number}")


def read_csv(
    path: str | os.PathLike, *, limit: int = TEXT_BYTES, rows: int = ROWS, strict: bool = True
) -> list[dict[str, str]]:
    """The rows of a CSV file by the names of its first line.

    Args:
      path: of the file.
      limit, rows: bytes and rows that it may have.
      strict: refuse rows with more or fewer cells than there are names. Otherwise missing cells are
        empty and further ones are passed over.

    Raises:
      ReadError: if it has no rows, or they are no table, or as :func:`read_text` says.
    """
    text = read_text(path, limit)
    return _guarded(path, lambda: list(_table(io.StringIO(text, newline=""), rows, strict)))


def read_lines(path: str | os.PathLike, limit: int = LINE_BYTES) -> Iterator[str]:
    """The lines of a UTF-8 file of any length, one after another.

    Raises:
      ReadError: if a line has more than ``limit`` bytes, or the file is missing or no UTF-8.
    """
    with contextlib.ExitStack() as stack:
        file = _guarded(path, lambda: stack.enter_context(open(path, "rb")))
        number = 0
        while line := _guarded(path, lambda: _next_line(file, limit), where=f"line {number + 1}"):
            number += 1
            yield line.removeprefix("\ufeff") if number == 1 else line


class _Loader(yaml.SafeLoader):
    """YAML's plain values; aliases, by which a short file can mean a huge value, are refused."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not read")
        if self.depth >= YAML_DEPTH:  # before Python's own limit, which is met late
            raise ValueError("its values are nested too deeply")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _table(lines: Iterable[str], most: int, strict: bool) -> Iterator[dict[str, str]]:
    """Rows by the names of the first line."""
    table = csv.reader(lines)
    names = next(table, [])
    if not names:
        raise ValueError("it is empty")
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice in its first line")
    count = 0
    for cells in table:
        if not cells:
            continue
        count += 1
        if count > most:
            raise ValueError(f"it has more than {most:,} rows")
        if strict and len(cells) != len(names):
            raise ValueError(
                f"line {table.line_num} has {len(cells)} cells, its first line {len(names)} names"
            )
        yield dict(zip(names, [*cells, *[""] * (len(names) - len(cells))]))
    if not count:
        raise ValueError("it has no rows")


def _next_line(file: IO[bytes], limit: int) -> str:
    line = file.readline(limit + 1)
    if len(line) > limit:
        raise ValueError(f"it has more than {_size(limit)}")
    return line.decode("utf-8")


def _guarded(
    path: str | os.PathLike, read: Callable[..., T], *arguments: Any, where: str = ""
) -> T:
    """What ``read`` returns; its errors as :class:`ReadError`."""
    try:
        return read(*arguments)
    except RecursionError as error:
        raise ReadError(path, _reason(where, "its values are nested too deeply")) from error
    except UnicodeDecodeError as error:
        raise ReadError(path, _reason(where, "it is not UTF-8 text")) from error
    except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ReadError(path, _reason(where, reason)) from error
    except (csv.Error, yaml.YAMLError) as error:
        raise ReadError(path, _reason(where, str(error))) from error


def _reason(where: str, reason: str) -> str:
    """A reason in one line of a few hundred characters at most."""
    words = " ".join(reason.split())
    if len(words) > 300:
        words = f"{words[:300]} ..."
    return f"{where}: {words}" if where else words


def _size(count: int) -> str:
    return f"{count // MIB} MiB" if count % MIB == 0 else f"{count // KIB} KiB"
