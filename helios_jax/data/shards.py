"""Shards: files of records with their indices, each there whole or not at all."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from helios_jax.data.errors import DataError, import_extra
from helios_jax.data.records import Entry, Record, index_entry, to_bytes, to_entry
from helios_jax.locks import lock, remove_partials
from helios_jax.readers import ReadError, read_json_lines
from helios_jax.writers import WriteError, writing

RECORDS = ".array_record"
INDEX = ".jsonl"
SKIPPED = ".skipped.jsonl"


class ShardWriter:
    """Takes the records of one shard, and names of inputs left out. Made by :func:`open_shard`."""

    def __init__(self, path: Path, target: Path):
        array_record = import_extra("array_record.python.array_record_module")
        # One record a group: each is read alone. Latents are close to noise: zstd would save a
        # tenth of the disk, and reading take twice as long.
        self._target = target
        with self._writing():
            self._writer = array_record.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        self.entries: list[Entry] = []
        self.skipped: list[dict[str, str]] = []

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
          RecordError: if it cannot be one; nothing is written then.
          WriteError: if the disk is full.
        """
        blob = to_bytes(record)
        entry = index_entry(record)
        with self._writing():
            self._writer.write(blob)
        self.entries.append(entry)

    def skip(self, source: str, kind: str, reason: str) -> None:
        """Note an input that is left out, what it is counted as, and why it is left out."""
        self.skipped.append({"source": source, "kind": kind, "reason": reason})

    def close(self) -> None:
        """End the file."""
        with self._writing():
            self._writer.close()

    @contextlib.contextmanager
    def _writing(self) -> Generator[None, None, None]:
        """Errors of array_record, which are RuntimeErrors, as those of the system."""
        try:
            with writing(self._target):
                yield
        except RuntimeError as error:
            reason = str(error).removeprefix("write() failed: ").partition(";")[0]
            raise WriteError(f"{self._target} cannot be written: {reason}") from error


@contextlib.contextmanager
def open_shard(folder: Path, name: str) -> Generator[ShardWriter, None, None]:
    """Write a shard, which is there, whole, when the ``with`` block ends.

    If the block fails or the process is killed, no part of the shard is there.

    Raises:
      LockedError: if another process writes it.
    """
    with lock(folder / name, "the shard"):
        yield from _write_shard(folder, name)


def _write_shard(folder: Path, name: str) -> Generator[ShardWriter, None, None]:
    partial = {}
    for suffix in (RECORDS, SKIPPED, INDEX):
        remove_partials(folder / f"{name}{suffix}")
        partial[suffix] = folder / f".{name}{suffix}.partial-{os.getpid()}"
    try:
        writer = ShardWriter(partial[RECORDS], folder / f"{name}{RECORDS}")
        try:
            yield writer
        finally:
            writer.close()
        with writing(folder / f"{name}{INDEX}"):
            _write_lines(partial[SKIPPED], writer.skipped)
            _write_lines(partial[INDEX], map(dataclasses.asdict, writer.entries))
            for suffix, path in partial.items():  # the index last: from then on the shard is there
                with path.open("rb+") as file:  # Windows syncs only what may be written
                    os.fsync(file.fileno())
                path.replace(folder / f"{name}{suffix}")
    finally:
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink()


def has_shard(folder: Path, name: str) -> bool:
    """Whether a shard is finished."""
    return (folder / f"{name}{INDEX}").is_file()


def index_files(folder: Path) -> list[Path]:
    """The indices of a folder's finished shards, sorted by name."""
    return sorted(path for path in folder.glob(f"*{INDEX}") if not path.name.endswith(SKIPPED))


def read_index(path: Path) -> list[Entry]:
    """The entries of an index.

    Raises:
      DataError: if it is damaged.
    """
    try:
        return [to_entry(line) for line in read_json_lines(path)]
    except (ReadError, DataError) as error:
        raise DataError(
            f"{path} is damaged: {error}; remove it and encode this shard again"
        ) from error


def read_skipped(folder: Path) -> list[dict[str, str]]:
    """Inputs that were left out of a dataset: source, kind and reason of each.

    Raises:
      DataError: if a file of them is damaged.
    """
    lines = []
    for path in sorted(folder.glob(f"*{SKIPPED}")):
        try:
            lines += read_json_lines(path)
        except ReadError as error:
            raise DataError(str(error)) from error
    for line in lines:
        if not isinstance(line, dict) or line.keys() != {"source", "kind", "reason"}:
            raise DataError(f"{folder}/*{SKIPPED}: {line!r} names no input that was left out")
    return lines


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
