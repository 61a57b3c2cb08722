"""Tables of videos and captions: CSV files and JSON lines."""

from pathlib import Path
from typing import Any

from helios_jax.data.errors import DataError
from helios_jax.readers import MIB, ReadError, read_csv, read_json_lines

MOST_BYTES = 1024 * MIB
"""Of a CSV file of captions."""
MOST_ROWS = 10_000_000
"""Of a CSV file of captions."""


def read_captions(path: Path) -> list[tuple[Path, str]]:
    """The lines of a table: videos, found relative to it, and their captions.

    Args:
      path: a CSV file with a header, or JSON lines; the video's column is ``path`` or ``video``,
        the caption's ``caption``.

    Raises:
      DataError: if the table cannot be read; naming the line that has no video or no caption.
    """
    readers = {".csv": _read_csv, ".jsonl": read_json_lines}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: captions are read from .csv and .jsonl files")
    clips = []
    try:
        for number, line in enumerate(readers[path.suffix.lower()](path), 1):
            clips.append(_read_clip(path, number, line))
    except ReadError as error:
        raise DataError(str(error)) from error
    if not clips:
        raise DataError(f"{path} lists no videos")
    return clips


def _read_csv(path: Path) -> list[dict[str, str]]:
    return read_csv(path, limit=MOST_BYTES, rows=MOST_ROWS, strict=False)


def _read_clip(path: Path, number: int, line: Any) -> tuple[Path, str]:
    """The video and the caption of a line."""
    video = (line.get("path") or line.get("video")) if isinstance(line, dict) else None
    if not isinstance(video, str) or "caption" not in line:
        raise DataError(f"{path}: record {number} has no path (or video) or no caption")
    caption = line["caption"] if isinstance(line["caption"], str) else ""
    try:
        (video + caption).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can hold
        raise DataError(f"{path}: record {number} has text that is not Unicode") from error
    return path.parent / video, caption
