"""Training records: a clip as latents and text features, many to a file, with an index that is read
instead of them.

A dataset is a folder::

    dataset.json                     what holds for all of it: which VAE and text encoder made it,
      sizes (Facts)
    clips-00000.array_record         records, each a safetensors blob: the tensors `latents` and
    `text`, prompt and metadata as JSON clips-00000.jsonl                its index, one line a
    record (Entry); written last, so that a shard is there once its index is
    clips-00000.skipped.jsonl        what was to be in it and is not, and why

ArrayRecord gives random access and a checksum for every record. Nothing here is a pickle.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource

from helios_jax.config import ConfigError, from_dict
from helios_jax.errors import HeliosError
from helios_jax.types import Float

FACTS = "dataset.json"
DIGESTS = ("vae", "text_encoder")
"""Those of :class:`Facts` that may be unknown."""
RECORDS, INDEX, SKIPPED = ".array_record", ".jsonl", ".skipped.jsonl"
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""What latents and text may be stored in, by safetensors' name."""


class DataError(HeliosError, ValueError):
    """Training data that cannot be used; the message says which, why, and what to do."""


class RecordError(DataError):
    """One record that cannot be read or is not what its index says: file, place and cause."""


class Record(NamedTuple):
    """A clip.

    Attributes:
      latents: S pieces of T latent frames, each encoded by itself, in model space; float32 or
        bfloat16.
      text: features of the prompt's n tokens; what follows them in a batch is zero. float32 or
        bfloat16.
      prompt: the caption.
      metadata: whatever else is known: where it comes from, how it was made.
    """

    latents: Float[np.ndarray, "S T H W C"]
    text: Float[np.ndarray, "n E"]
    prompt: str
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A line of an index: what planning needs to know of a record.

    Attributes:
      id: its name, unique in its folder.
      prompt: the caption.
      sections: S, pieces of latents.
      height, width: H and W, latent rows and columns.
      tokens: n, rows of text features.
      frames: of the clip it was made from.
      source: the file, or the place in the procedural world, it was made from.
    """

    id: str
    prompt: str
    sections: int
    height: int
    width: int
    tokens: int
    frames: int
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What holds for a whole dataset.

    Attributes:
      section_frames: T, latent frames of a piece.
      latent_channels: C.
      text_width: E.
      text_dtype: of the text features.
      vae, text_encoder: digests of the weights that made it; empty where they are not known.
      inputs: digest of the inputs and settings it is made from, so that an interrupted run goes on
        with the same.
    """

    section_frames: int
    latent_channels: int
    text_width: int
    text_dtype: str
    vae: str = ""
    text_encoder: str = ""
    inputs: str = ""

    def differences(self, other: "Facts") -> list[str]:
        """In which fields two datasets cannot be mixed; a digest that is not known fits every
        other.
        """
        pairs = {
            name: (getattr(self, name), getattr(other, name))
            for name in self.__dataclass_fields__
            if name != "inputs"
        }
        unknown = {name for name in DIGESTS if "" in pairs[name]}
        return [
            f"{name} {a!r} and {b!r}"
            for name, (a, b) in pairs.items()
            if a != b and name not in unknown
        ]

    def check(self, record: Record) -> None:
        """Refuse a record that does not belong to the dataset.

        Raises:
          RecordError: saying in what it differs.
        """
        expected = (self.section_frames, self.latent_channels, self.text_width, self.text_dtype)
        found = (
            record.latents.shape[1],
            record.latents.shape[4],
            record.text.shape[1],
            record.text.dtype.name,
        )
        if found != expected:
            raise RecordError(
                f"frames a section, channels, width and dtype of the text are {found}, the dataset's are {expected}"
            )


def to_bytes(record: Record) -> bytes:
    """A record as a safetensors blob.

    Raises:
      RecordError: if it has another shape or dtype than :class:`Record` says, or values that are
        not finite.
    """
    tensors = {
        "latents": np.ascontiguousarray(record.latents),
        "text": np.ascontiguousarray(record.text),
    }
    _check(tensors)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise RecordError(f"{name} has values that are not finite")
    words = json.dumps({"prompt": record.prompt, **record.metadata})
    return safetensors.numpy.save(
        tensors, {"record": words}
    )  # one string: of several, the order would differ from run to run


def from_bytes(blob: bytes) -> Record:
    """The inverse of :func:`to_bytes`.

    Raises:
      RecordError: saying what is wrong with the blob.
    """
    try:
        found = dict(safetensors.deserialize(blob))
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        metadata = json.loads(header["__metadata__"]["record"])
        prompt = metadata.pop("prompt")
        tensors = {}
        for name, tensor in found.items():
            if tensor["dtype"] not in DTYPES:
                raise RecordError(
                    f"{name} is of dtype {tensor['dtype']}, not one of {', '.join(DTYPES)}"
                )
            tensors[name] = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(
                tensor["shape"]
            )
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"not a record: {type(error).__name__}: {error}") from error
    _check(tensors)
    return Record(tensors["latents"], tensors["text"], prompt, metadata)


def describe(record: Record) -> Entry:
    """A record's line in the index; ``id``, ``frames`` and ``source`` come from its metadata."""
    sections, _, height, width, _ = record.latents.shape
    known = {name: record.metadata[name] for name in ("id", "frames", "source")}
    return Entry(
        prompt=record.prompt,
        sections=sections,
        height=height,
        width=width,
        tokens=len(record.text),
        **known,
    )


class ShardWriter:
    """Takes the records of one shard, and the names of what is left out. Made by
    :func:`open_shard`.
    """

    def __init__(self, path: Path):
        # One record a group: each is read alone. Latents are close to noise: zstd would save a
        # tenth of the disk, and reading take twice as long.
        self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        self.entries: list[Entry] = []
        self.skipped: list[dict[str, str]] = []

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
          RecordError: if it cannot be one; nothing is written then.
        """
        blob, entry = to_bytes(record), describe(record)
        self._writer.write(blob)
        self.entries.append(entry)

    def skip(self, source: str, kind: str, reason: str) -> None:
        """Note what is left out: of what kind the trouble is, and what exactly."""
        self.skipped.append({"source": source, "kind": kind, "reason": reason})

    def close(self) -> None:
        """End the file."""
        self._writer.close()


@contextlib.contextmanager
def open_shard(folder: Path, name: str) -> Iterator[ShardWriter]:
    """Write a shard, which is there, whole, when the ``with`` block ends, and not at all if the
    block fails or is killed.
    """
    for left in folder.glob(f".{name}.*.partial-*"):  # by a run that was killed
        left.unlink(missing_ok=True)
    partial = {
        suffix: folder / f".{name}{suffix}.partial-{os.getpid()}"
        for suffix in (RECORDS, SKIPPED, INDEX)
    }
    try:
        writer = ShardWriter(partial[RECORDS])
        try:
            yield writer
        finally:
            writer.close()
        _write_lines(partial[SKIPPED], writer.skipped)
        _write_lines(partial[INDEX], map(dataclasses.asdict, writer.entries))
        for suffix, path in partial.items():  # the index last: from then on the shard is there
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.rename(folder / f"{name}{suffix}")
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def has_shard(folder: Path, name: str) -> bool:
    """Whether a shard is finished."""
    return (folder / f"{name}{INDEX}").is_file()


def write_facts(folder: Path, facts: Facts) -> None:
    """Found a dataset, or go on with one; several processes may do so at once.

    Raises:
      DataError: if the folder holds another dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FACTS}.partial-{os.getpid()}"
    try:
        partial.write_text(json.dumps(dataclasses.asdict(facts), indent=2) + "\n", encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(partial, folder / FACTS)  # unlike a rename, this does not replace
    finally:
        partial.unlink(missing_ok=True)
    found = read_facts(folder)
    if found != facts:
        what = found.differences(facts) or ["other inputs or settings"]
        raise DataError(
            f"{folder} holds a dataset made otherwise ({'; '.join(what)}): name another folder, or remove that one"
        )


def read_facts(folder: Path) -> Facts:
    """The facts of a dataset.

    Raises:
      DataError: if there is none.
    """
    try:
        return from_dict(Facts, json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(
            f"{folder} has no {FACTS}: not a folder of records; make one with python -m helios_jax.commands.encode"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{folder / FACTS} cannot be read: {error}") from error


def read_skipped(folder: Path) -> list[dict[str, str]]:
    """What was left out of a dataset: source, kind and reason of each."""
    return [line for path in sorted(folder.glob(f"*{SKIPPED}")) for line in _read_lines(path)]


class RecordSource:
    """Records of several folders, by one number each; their indices are read at once, themselves
    when asked for.

    Attributes:
      facts: of all of them.
      entries: what is known of each without reading it, by its number.
    """

    def __init__(self, folders: Sequence[str | os.PathLike]):
        """Read the indices.

        Raises:
          DataError: if a folder is no dataset, datasets do not fit together, or nothing is in them.
        """
        self.facts = _common_facts([Path(folder) for folder in folders])
        self.entries: list[Entry] = []
        self._places: list[tuple[Path, int]] = []
        shards = []
        for folder in map(Path, folders):
            for index in sorted(
                path for path in folder.glob(f"*{INDEX}") if not path.name.endswith(SKIPPED)
            ):
                entries = _read_index(index)
                records = index.with_suffix(RECORDS)
                self.entries += entries
                self._places += [(records, i) for i in range(len(entries))]
                shards += [_Shard(str(records), 0, len(entries), len(entries))] if entries else []
        if not shards:
            raise DataError(
                f"no records in {', '.join(map(str, folders)) or 'no folder: name some'}"
            )
        self._blobs = ArrayRecordDataSource(shards)

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
            self.facts.check(record)
            sections, _, height, width, _ = record.latents.shape
            if (sections, height, width, len(record.text)) != (
                entry.sections,
                entry.height,
                entry.width,
                entry.tokens,
            ):
                raise RecordError(
                    f"its latents are {list(record.latents.shape)} and its text {list(record.text.shape)}, its index says {entry}"
                )
        except (
            RecordError,
            RuntimeError,
            OSError,
        ) as error:  # the library raises RuntimeError for whatever it meets in a file
            raise RecordError(f"{path}: record {position} ({entry.id}): {error}") from error
        return record


class _Shard(NamedTuple):
    """A file of records, of which the library need not count the records: a damaged one would count
    as empty, and shift all others.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def _common_facts(folders: list[Path]) -> Facts:
    """The facts of folders that can be mixed, with every digest that one of them knows."""
    if not folders:
        raise DataError("no folder of records is named")
    found = [read_facts(folder) for folder in folders]
    for (folder, facts), (other, others) in itertools.combinations(zip(folders, found), 2):
        if differences := facts.differences(others):
            raise DataError(f"{folder} and {other} cannot be mixed: {'; '.join(differences)}")
    known = {
        name: max(getattr(facts, name) for facts in found) for name in DIGESTS
    }  # all are one, or empty
    return dataclasses.replace(found[0], **known, inputs="")


def _check(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse what are not the tensors of a record."""
    shapes = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
    ranks = {name: tensor.ndim for name, tensor in tensors.items()}
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if (
        ranks != {"latents": 5, "text": 2}
        or not dtypes <= set(DTYPES.values())
        or not all(tensor.size for tensor in tensors.values())
    ):
        raise RecordError(
            f"a record has latents [S, T, H, W, C] and text [n, E], float32 or bfloat16, not {shapes}"
        )


def _read_index(path: Path) -> list[Entry]:
    try:
        return [Entry(**line) for line in _read_lines(path)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged: {error}; remove it and encode this shard again"
        ) from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
