"""Tables of videos and captions: CSV files and JSON lines."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helios_jax.data.errors import DataError


def read_captions(path: Path) -> list[tuple[Path, str]]:
    """The lines of a table: videos, found relative to it, and their captions.

    Args:
      path: a CSV file with a header, or JSON lines; the video's column is ``path`` or ``video``,
        the caption's ``caption``.

    Raises:
      DataError: if the table cannot be read; naming the line that has no video or no caption.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise DataError(f"{path}: captions are read from .csv and .jsonl files")
    try:
        lines = list(_read_lines(path))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}") from error
    clips = []
    for number, line in enumerate(lines, 1):
        video = (line.get("path") or line.get("video")) if isinstance(line, dict) else None
        if not isinstance(video, str) or "caption" not in line:
            raise DataError(f"{path}: record {number} has no path (or video) or no caption")
        caption = line["caption"]
        clips.append((path.parent / video, caption if isinstance(caption, str) else ""))
    if not clips:
        raise DataError(f"{path} lists no videos")
    return clips


def _read_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(file)
        else:
            for line in file:
                if line.strip():
                    yield json.loads(line)
