"""The prompts of a benchmark: HeliosBench's own table, any other CSV, or scenes of the world.

HeliosBench's has the columns id, prompt and duration, which is a number of frames: 60 prompts each
of 120, 240, 720 and 1440. A video of a prompt is ``{id}_{duration}_ori{frames}.mp4``.
"""

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.readers import ReadError, read_csv
from helios_jax.world.captions import caption
from helios_jax.world.scenes import Scene, sample_scene
from helios_jax.writers import write_whole

COLUMNS = {
    "number": ("id", "index", "video_id"),
    "text": ("prompt", "caption", "text"),
    "frames": ("duration", "num_frames", "frames"),
}
"""The columns that are understood, by what they hold; the first names are HeliosBench's."""
SCENE_COLUMNS = ("scene_seed", "scene_number", "scene_split", "scene_edition")
TABLE = "prompts.csv"
"""The name of the table that :func:`write_prompts` leaves beside videos."""


class WorldScene(NamedTuple):
    """Which scene of the procedural world a prompt describes."""

    seed: int
    number: int
    split: str = "heldout"
    edition: int = 1

    def scene(self) -> Scene:
        return sample_scene(self.seed, self.number, self.split, self.edition)


class BenchPrompt(NamedTuple):
    """A prompt, its number, the frames its video has, and its scene if it is of the world."""

    number: int
    text: str
    frames: int | None = None
    world: WorldScene | None = None

    @property
    def video_name(self) -> str:
        """The name of its video, as HeliosBench has it."""
        return f"{self.number}_{self.frames}_ori{self.frames}.mp4"


def read_prompts(path: str | os.PathLike) -> list[BenchPrompt]:
    """The prompts of a CSV file with a header, in its order.

    Only the prompt is needed: without ids, rows count from 1; without durations, the caller says.

    Raises:
      BenchError: naming the file and the column or line that is wrong.
    """
    rows = _read_table(path)
    columns = list(rows[0])
    there = {name: _find(columns, names) for name, names in COLUMNS.items()}
    if there["text"] is None:
        raise BenchError(
            f"{path}: has no column {' or '.join(COLUMNS['text'])}; its columns are "
            f"{', '.join(columns)[:300]}"
        )
    prompts = []
    for count, row in enumerate(rows, start=1):
        prompts.append(_read_row(row, there, count, f"{path}: row {count}"))
    counts = Counter(prompt.number for prompt in prompts)
    if twice := [number for number in sorted(counts) if counts[number] > 1]:
        shown = ", ".join(map(str, twice[:8]))
        raise BenchError(f"{path}: more than one prompt has the id {shown}")
    return prompts


def unread_columns(path: str | os.PathLike) -> list[str]:
    """The columns of a CSV file that :func:`read_prompts` passes over."""
    columns = _read_table(path)[0]
    used = {_find(columns, names) for names in COLUMNS.values()}
    return [name for name in columns if name not in used and name not in SCENE_COLUMNS]


def world_prompts(count: int, frames: Sequence[int], seed: int = 2000) -> list[BenchPrompt]:
    """Captions of held-out scenes of the procedural world, lengths by turns."""
    prompts = []
    for number in range(count):
        world = WorldScene(seed, number)
        text = caption(world.scene(), number)
        prompts.append(BenchPrompt(number + 1, text, frames[number % len(frames)], world))
    return prompts


def choose_prompts(
    prompts: Iterable[BenchPrompt],
    durations: Sequence[int] = (),
    num_frames: int | None = None,
    limit: int | None = None,
) -> list[BenchPrompt]:
    """Some of the prompts, each with a length.

    Args:
      prompts: to choose from.
      durations: keep prompts of these lengths; empty keeps all.
      num_frames: make every video this long instead of as long as its prompt says.
      limit: of each length keep so many at most.

    Raises:
      BenchError: if none is left, or one has no length.
    """
    chosen: list[BenchPrompt] = []
    for prompt in prompts:
        if durations and prompt.frames not in durations:
            continue
        same = [other for other in chosen if num_frames or other.frames == prompt.frames]
        if limit is None or len(same) < limit:
            chosen.append(prompt if num_frames is None else prompt._replace(frames=num_frames))
    if not chosen:
        wanted = ", ".join(map(str, durations))
        raise BenchError(f"no prompt is {wanted} frames long" if durations else "no prompt is left")
    if any(prompt.frames is None for prompt in chosen):
        raise BenchError("the prompts have no column duration: give --num_frames")
    return chosen


def write_prompts(path: str | os.PathLike, prompts: Iterable[BenchPrompt]) -> None:
    """Write a table that :func:`read_prompts` and the original's scripts read."""
    prompts = list(prompts)
    world = any(prompt.world for prompt in prompts)
    file = io.StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["id", "prompt", "duration", *(SCENE_COLUMNS if world else ())])
    for prompt in prompts:
        table.writerow([prompt.number, prompt.text, prompt.frames, *(prompt.world or ())])
    write_whole(path, file.getvalue().encode())


def digest_of(prompts: Iterable[BenchPrompt]) -> str:
    """Twelve hexadecimal digits that tell sets of prompts apart."""
    text = "\n".join(f"{prompt.number}\t{prompt.text}\t{prompt.frames}" for prompt in prompts)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_table(path: str | os.PathLike) -> list[dict[str, str]]:
    try:
        return read_csv(path, strict=False)
    except ReadError as error:
        raise BenchError(f"{path}: {error.reason}") from error


def _find(columns: Collection[str], names: Sequence[str]) -> str | None:
    """The first column with one of the names."""
    return next((name for name in names if name in columns), None)


def _read_row(
    row: dict[str, str], there: dict[str, str | None], count: int, where: str
) -> BenchPrompt:
    text = (row[there["text"] or "prompt"] or "").strip()
    if not text:
        raise BenchError(f"{where}: the prompt is empty")
    number = count if there["number"] is None else _whole(row, there["number"], where)
    frames = None if there["frames"] is None else _whole(row, there["frames"], where, least=1)
    world = None
    if (row.get("scene_seed") or "").strip():
        seed, scene_number = (_whole(row, name, where) for name in SCENE_COLUMNS[:2])
        edition = _whole(row, "scene_edition", where) if row.get("scene_edition") else 1
        world = WorldScene(seed, scene_number, row.get("scene_split") or "heldout", edition)
        try:
            world.scene()
        except ValueError as error:
            raise BenchError(f"{where}: there is no such scene: {error}") from error
    return BenchPrompt(number, text, frames, world)


def _whole(row: dict[str, str], column: str, where: str, least: int = 0) -> int:
    text = (row.get(column) or "").strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise BenchError(f"{where}: {column} {text[:50]!r} is not a whole number from {least} on")
    return int(text)
