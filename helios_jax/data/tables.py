"""Lists of videos and captions, as people have them.

CSV, JSON lines or a JSON list, with the columns of the original implementation's data lists
(``path``, ``cap``, ``cut``, ``crop``), of Hugging Face's folders (``file_name``, ``text``), or ours
(``path``, ``caption``).
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helios_jax.data.errors import DataError
from helios_jax.media import Excerpt
from helios_jax.readers import MIB, ReadError, read_csv, read_json, read_json_lines

MOST_BYTES = 1024 * MIB
"""Of a list of captions."""
MOST_ROWS = 10_000_000
"""Of a CSV file of captions."""

VIDEO = ("path", "video", "file_name", "video_path")
CAPTION = ("caption", "text", "cap", "prompt")
"""Columns that are understood; of several in one list the first counts."""
MEASURED = ("fps", "num_frames", "resolution", "height", "width", "duration")
"""Columns that tell what the file itself says, which is believed."""


class ListedClip(NamedTuple):
    """A video of a list.

    Attributes:
      path: of the file.
      caption: what it shows.
      excerpt: the part of it that counts.
    """

    path: Path
    caption: str
    excerpt: Excerpt = Excerpt()

    @property
    def source(self) -> str:
        """The file and the part of it in words."""
        return " ".join([str(self.path), *self.excerpt.describe()])


class ClipList(NamedTuple):
    """The videos of a list, and what a user should know of how it was read."""

    clips: list[ListedClip]
    notes: list[str]


def read_captions(path: Path) -> ClipList:
    """Read a list of videos and captions.

    Paths are relative to the list. ``cut`` is ``[first, end]``, frames as the file counts them;
    ``crop`` is ``[left, right, top, bottom]``, pixels; of several captions the first counts.

    Args:
      path: a CSV file with a header, JSON lines, or a JSON list.

    Raises:
      DataError: if the list cannot be read; naming the record that has no video, no caption, or
        a cut or crop that is none.
    """
    readers = {".csv": _read_csv, ".jsonl": read_json_lines, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: captions are read from {', '.join(readers)} files")
    clips = []
    columns: dict[str, None] = {}
    several = 0
    try:
        for number, record in enumerate(readers[path.suffix.lower()](path), 1):
            where = f"{path}: record {number}"
            clips.append(_read_clip(path.parent, where, record))
            columns |= dict.fromkeys(record)
            captions = _first(record, CAPTION)
            several += isinstance(captions, list) and len(captions) > 1
    except ReadError as error:
        raise DataError(str(error)) from error
    if not clips:
        raise DataError(f"{path} lists no videos")
    return ClipList(clips, [f"{path}: {note}" for note in _notes(columns, several)])


def _notes(columns: Mapping[str, None], several: int) -> list[str]:
    """What is in a list and does not count."""
    used = {"cut", "crop"}
    for names in (VIDEO, CAPTION):
        used |= {next(name for name in names if name in columns)}
    notes = []
    measured = [name for name in columns if name in MEASURED]
    if measured:
        notes.append(f"{', '.join(measured)}: what the video files say counts")
    unknown = [name for name in columns if name not in used and name not in MEASURED]
    if unknown:
        notes.append(f"not read: {', '.join(unknown)}")
    if several:
        notes.append(f"{several} videos have several captions: the first counts")
    return notes


def _read_csv(path: Path) -> list[dict[str, str]]:
    return read_csv(path, limit=MOST_BYTES, rows=MOST_ROWS, strict=False)


def _read_json(path: Path) -> list[Any]:
    records = read_json(path, MOST_BYTES)
    if not isinstance(records, list):
        raise DataError(f"{path} holds no list of videos")
    return records


def _read_clip(folder: Path, where: str, record: Any) -> ListedClip:
    if not isinstance(record, dict):
        raise DataError(f"{where} has no path and no caption")
    video = _first(record, VIDEO)
    caption = _first(record, CAPTION)
    if isinstance(caption, list):
        caption = caption[0] if caption else ""
    if not isinstance(video, str) or not video or caption is None:
        missing = "no caption" if isinstance(video, str) and video else "no path"
        raise DataError(
            f"{where} has {missing}: videos are named by {', '.join(VIDEO)}, captions by "
            f"{', '.join(CAPTION)}; it has {', '.join(map(str, record)) or 'nothing'}"
        )
    caption = caption if isinstance(caption, str) else ""
    try:
        (video + caption).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can hold
        raise DataError(f"{where} has text that is not Unicode") from error
    return ListedClip(folder / video, caption, _read_excerpt(where, record))


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _read_excerpt(where: str, record: Mapping[str, Any]) -> Excerpt:
    cut = _numbers(where, "cut", record.get("cut"), 2)
    crop = _numbers(where, "crop", record.get("crop"), 4)
    if cut and not cut[0] < cut[1]:
        raise DataError(f"{where}: cut={list(cut)} must be [first, end], first < end")
    if crop and not (crop[0] < crop[1] and crop[2] < crop[3]):
        raise DataError(
            f"{where}: crop={list(crop)} must be [left, right, top, bottom], left < right and top "
            "< bottom"
        )
    return Excerpt(cut, crop)


def _numbers(where: str, name: str, value: Any, count: int) -> Any:
    """So many whole numbers from 0 on, in a list or, in a CSV file, as one is written."""
    if isinstance(value, str) and value.strip():
        with contextlib.suppress(ValueError, RecursionError):  # refused below
            value = json.loads(value)
    if value is None or value == "" or value == []:
        return None
    good = isinstance(value, list) and len(value) == count
    if not good or any(type(item) is not int or item < 0 for item in value):
        raise DataError(f"{where}: {name}={repr(value)[:100]} must be {count} whole numbers from 0")
    return tuple(value)
