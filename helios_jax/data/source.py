"""Random access to the records of several folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from helios_jax.data.errors import DataError, RecordError, import_extra
from helios_jax.data.info import common_info
from helios_jax.data.records import Entry, Record, from_bytes
from helios_jax.data.shards import RECORDS, index_files, read_index


class RecordSource:
    """Records of several folders, numbered through.

    The indices are read at once, a record when it is asked for.

    Attributes:
      info: what all of them have in common.
      entries: the index entry of each record, by its number.
    """

    def __init__(self, folders: Sequence[str | os.PathLike]):
        """Read the indices.

        Raises:
          DataError: if a folder is no dataset, datasets cannot be mixed, or there are no records.
        """
        paths = [Path(folder) for folder in folders]
        self.info = common_info(paths)
        self.entries: list[Entry] = []
        self._places: list[tuple[Path, int]] = []
        shards = []
        for folder in paths:
            for index in index_files(folder):
                entries = read_index(index)
                records = index.with_suffix(RECORDS)
                self.entries += entries
                self._places += [(records, i) for i in range(len(entries))]
                if entries:
                    shards.append(_Shard(str(records), 0, len(entries), len(entries)))
        if not shards:
            raise DataError(f"no records in {', '.join(map(str, folders))}")
        array_record = import_extra("array_record.python.array_record_data_source")
        self._blobs = array_record.ArrayRecordDataSource(shards)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, number: int) -> Record:
        """A record; may be called by several threads at once.

        Raises:
          RecordError: if it is damaged, or not what its index says.
        """
        path, position = self._places[number]
        entry = self.entries[number]
        try:
            record = from_bytes(self._blobs[number])
            self.info.check(record)
            _check_entry(record, entry)
        # array_record raises RuntimeError for everything that it finds wrong in a file.
        except (RecordError, RuntimeError, OSError) as error:
            raise RecordError(f"{path}: record {position} ({entry.id}): {error}") from error
        return record


class _Shard(NamedTuple):
    """A file of records, with the number of its records.

    The library would count them itself, but a damaged file would count as empty and shift all
    others.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def _check_entry(record: Record, entry: Entry) -> None:
    """Refuse a record of other sizes than its index says."""
    sections, _, height, width, _ = record.latents.shape
    found = (sections, height, width, len(record.text))
    if found != (entry.sections, entry.height, entry.width, entry.tokens):
        raise RecordError(
            f"its latents are {list(record.latents.shape)} and its text "
            f"{list(record.text.shape)}, its index says {entry}"
        )
