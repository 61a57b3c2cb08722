"""Scoring a folder of videos: every metric of every video once, whatever interrupts it.

After each video and metric the result file of the metric is written again, so a run can be stopped
at any time and the same command goes on. A row is taken for done as long as the video file is the
one it was made from.
"""

import dataclasses
import datetime
import hashlib
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from helios_jax.errors import HeliosError
from helios_jax.evaluation.bench.devices import work_on
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import (
    GENERATION,
    MERGED,
    MetricResults,
    read_free,
    read_notes,
    read_results,
    result_path,
    write_json,
    write_results,
)
from helios_jax.evaluation.bench.free import FreeMeter
from helios_jax.evaluation.bench.judge import JudgeRefusedError
from helios_jax.evaluation.bench.metrics import METRICS, Metric
from helios_jax.evaluation.bench.models import Models
from helios_jax.evaluation.bench.naturalness import NUM_FRAMES
from helios_jax.evaluation.bench.pieces import read_pieces
from helios_jax.evaluation.bench.prompts import TABLE, BenchPrompt, digest_of
from helios_jax.evaluation.bench.similarity import compare_videos
from helios_jax.evaluation.bench.strips import StripMaker, save_strip
from helios_jax.evaluation.bench.video import Video
from helios_jax.evaluation.bench.world import score_world
from helios_jax.media.animations import is_animation
from helios_jax.version import VERSION
from helios_jax.writers import WriteError

SHORT = 81
"""Frames of a short video: the first ones of a long one."""
FREE = "free"
WORLD = "world"
FREE_FILE = "free_measures.json"
CONDITIONS = "conditions.json"
STRIPS = "strips"
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
IMAGES = (".webp", ".avif", ".png", ".apng")
"""Suffixes of what is a video if it has several frames."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video to score.

    Attributes:
      number: the id in result files, and of the prompt.
      path: the file, or a folder of images.
      prompt: what it was made from, where that is known.
      truth: a video it should be equal to, where there is one.
    """

    number: int
    path: Path
    prompt: BenchPrompt | None = None
    truth: Path | None = None

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with the video."""
        digest = hashlib.sha256()
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        for file in files:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """How videos are scored.

    Attributes:
      metrics: names of :data:`METRICS`, "free" and "world".
      most: frames to look at; None for all.
      flow: the method of the free measures.
    """

    metrics: tuple[str, ...]
    most: int | None = None
    flow: str = "plain"


def known_metrics() -> list[str]:
    """All metrics, free measures and the world's judge among them."""
    return [*METRICS, WORLD, FREE]


def check_metrics(names: Iterable[str]) -> None:
    """Refuse unknown metrics.

    Raises:
      BenchError: naming them, and those there are.
    """
    if unknown := [name for name in names if name not in known_metrics()]:
        known = ", ".join(known_metrics())
        raise BenchError(f"there is no metric {', '.join(unknown)}; there are {known}")


def find_videos(
    folder: Path, prompts: Sequence[BenchPrompt] = (), truth: Path | None = None
) -> list[Entry]:
    """The videos of a folder, by the numbers their names begin with.

    HeliosBench names them ``{id}_{duration}_ori{frames}.mp4``; where there are such names, only
    they count, as there. Else every video file counts: by the number at the beginning of its name
    if all have one, or in the order of names from 1 on.

    Args:
      folder: of video files.
      prompts: by their numbers.
      truth: folder with files of the same names, to compare with.

    Raises:
      BenchError: if there is no video, two have one number, or one lacks its counterpart.
    """
    if not folder.is_dir():
        raise BenchError(f"--videos={folder}: there is no such folder")
    files = sorted(file for file in folder.iterdir() if _is_video(file))
    original = [file for file in files if re.fullmatch(r"\d+_.*_ori.*\.mp4", file.name)]
    files = original or files
    if not files:
        raise BenchError(f"--videos={folder}: holds no video; known are {', '.join(SUFFIXES)}")
    matches = [re.match(r"\d+", file.name) for file in files]
    numbers = [int(match[0]) for match in matches if match]
    if len(numbers) < len(files):
        numbers = list(range(1, len(files) + 1))
    by_number = {prompt.number: prompt for prompt in prompts}
    entries: dict[int, Entry] = {}
    for number, file in zip(numbers, files):
        if number in entries:
            names = f"{entries[number].path.name} and {file.name}"
            raise BenchError(f"{folder}: {names} have the same number {number}")
        other = truth / file.name if truth else None
        if other is not None and not other.is_file():
            raise BenchError(f"--truth={truth}: has no {file.name} to compare with")
        entries[number] = Entry(number, file, by_number.get(number), other)
    return [entries[number] for number in sorted(entries)]


def _is_video(file: Path) -> bool:
    suffix = file.suffix.lower()
    return suffix in SUFFIXES or (suffix in IMAGES and is_animation(file))


def score_videos(
    entries: Sequence[Entry],
    folder: Path,
    models: Models,
    options: ScoreOptions,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, str]:
    """Score what is not scored yet.

    Each device has networks of its own and takes the next video when it is free.

    Args:
      entries: the videos of one model.
      folder: for result files; made if it is not there.
      models: networks and judge.
      options: what to measure.
      devices: to work on; by default all.

    Returns:
      The metrics that were skipped, and why.

    Raises:
      BenchError: if a metric is unknown, or the judge's server refuses.
    """
    check_metrics(options.metrics)
    skipped = reasons_to_skip(entries, models, options.metrics)
    metrics = [name for name in options.metrics if name not in skipped]
    ledgers = {name: Ledger.open(folder, name, models) for name in metrics}
    digests = {entry.number: entry.digest() for entry in entries}
    todo: queue.SimpleQueue[tuple[Entry, list[str]]] = queue.SimpleQueue()
    total = 0
    for entry in entries:
        names = [name for name in metrics if not ledgers[name].has(entry, digests[entry.number])]
        total += len(names)
        if names:
            todo.put((entry, names))
    _note_conditions(folder, entries, models, options, skipped)
    devices = list(jax.devices() if devices is None else devices)[: todo.qsize()]
    with tqdm(total=total, unit="score", disable=None, dynamic_ncols=True) as bar:

        def work(stop: threading.Event) -> None:
            own = models.unread()
            while not stop.is_set():
                try:
                    entry, names = todo.get_nowait()
                except queue.Empty:
                    return
                text = entry.prompt.text if entry.prompt else None
                video = Video(entry.path, text, options.most)
                for name in names:
                    bar.set_description(f"{entry.path.name} {name}")
                    score = _scorer(name, entry, video, folder, own, options)
                    ledgers[name].take(entry, digests[entry.number], score)
                    bar.update()

        if devices:
            work_on(devices, work)
    return skipped


def reasons_to_skip(
    entries: Sequence[Entry], models: Models, metrics: Iterable[str]
) -> dict[str, str]:
    """The metrics that cannot be measured, and why."""
    prompt = next((entry.prompt.text for entry in entries if entry.prompt), None)
    reasons: dict[str, str] = {}
    for name in metrics:
        reason = None
        if name == WORLD:
            scenes = any(entry.prompt and entry.prompt.world for entry in entries)
            reason = None if scenes else "the prompts name no scenes of the world"
        elif name in METRICS:
            reason = METRICS[name].reason_to_skip(models, prompt)
        if reason:
            reasons[name] = reason
    return reasons


def result_files(folder: Path, entries: Iterable[Entry]) -> list[Path]:
    """All that scoring may write into a folder, the judge's answers left out."""
    names = [TABLE, GENERATION, CONDITIONS, FREE_FILE, MERGED]
    names += [result_path("", metric).name for metric in known_metrics()]
    strips = [folder / STRIPS / f"{entry.number}.webp" for entry in entries]
    return [*(folder / name for name in names), *strips]


def failed_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The videos that a metric could not measure in the last run, with the reason."""
    if name == FREE:
        return list(read_free(folder / FREE_FILE)[1]) if (folder / FREE_FILE).exists() else []
    path = result_path(folder, name)
    return [dict(row) for row in read_results(path).failed] if path.exists() else []


@dataclasses.dataclass
class Ledger:
    """The rows of one metric, and its file, written after every row."""

    folder: Path
    name: str
    judge: str | None
    rows: dict[int, dict[str, Any]]
    failed: dict[int, dict[str, Any]]
    guard: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, name: str, models: Models) -> "Ledger":
        """What the file holds already; answers of another judge are refused.

        Raises:
          BenchError: if the file cannot be read, or holds answers of another judge.
        """
        judged = name in METRICS and "judge" in METRICS[name].needs
        judge = models.judge_name if judged else None
        ledger = cls(folder, name, judge, {}, {})
        path = ledger.path
        if not path.exists():
            return ledger
        if name == FREE:
            rows, failed = read_free(path)
            ledger.rows = {row["id"]: row for row in rows}
            ledger.failed = {row["id"]: row for row in failed}
            return ledger
        results = read_results(path)
        if judge and results.judge != judge:
            raise BenchError(
                f"{path} holds answers of {results.judge}, not of {judge}: name another --out"
            )
        ledger.rows = {row["id"]: dict(row) for row in results.videos}
        ledger.failed = {row["id"]: dict(row) for row in results.failed}
        return ledger

    @property
    def path(self) -> Path:
        return self.folder / FREE_FILE if self.name == FREE else result_path(self.folder, self.name)

    def has(self, entry: Entry, digest: str) -> bool:
        """Whether this very video is scored; the original's rows, without digest, are trusted."""
        row = self.rows.get(entry.number)
        return row is not None and row.get("digest", digest) == digest

    def take(self, entry: Entry, digest: str, score: Callable[[], dict[str, Any]]) -> None:
        """Measure a video and write the file; a video that cannot be measured is kept with why."""
        row = {"id": entry.number, "video_name": entry.path.name}
        began = time.perf_counter()
        error = None
        try:
            measured = score()
            if not _all_finite(measured):
                raise BenchError(f"{self.name} of {entry.path.name} is not a finite number")
            row |= measured
        except (JudgeRefusedError, WriteError):
            raise
        except (HeliosError, OSError) as reason:
            error = str(reason)
        seconds = time.perf_counter() - began
        with self.guard:
            if error is None:
                self.rows[entry.number] = row | {"digest": digest, "seconds": round(seconds, 3)}
                self.failed.pop(entry.number, None)
            else:
                self.rows.pop(entry.number, None)
                self.failed[entry.number] = row | {"error": error}
            self.write()

    def write(self) -> None:
        videos = tuple(self.rows[number] for number in sorted(self.rows))
        failed = tuple(self.failed[number] for number in sorted(self.failed))
        if self.name == FREE:
            content = {"metric": FREE, "num_videos": len(videos), "per_video_results": videos}
            write_json(self.path, content | ({"failed_videos": failed} if failed else {}))
            return
        shown = NUM_FRAMES if self.name == "naturalness" else None  # as the original's file says
        results = MetricResults(self.name, videos, failed, None, self.judge, shown)
        write_results(self.folder, results)


def _all_finite(value: Any) -> bool:
    """Whether no number of a row is NaN or infinite, which JSON cannot say."""
    if isinstance(value, Mapping):
        return all(map(_all_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _scorer(
    name: str, entry: Entry, video: Video, folder: Path, models: Models, options: ScoreOptions
) -> Callable[[], dict[str, Any]]:
    """The measurement of a video by a metric."""
    if name == FREE:
        return lambda: _measure_free(entry, video, folder, options)
    if name == WORLD:
        return lambda: _measure_world(entry, video, options)
    metric: Metric = METRICS[name]

    def score() -> dict[str, Any]:
        if reason := metric.reason_to_skip(models, video.prompt):
            raise BenchError(f"{entry.path.name}: {reason}")
        return dict(metric.score(video, models))

    return score


def _measure_free(
    entry: Entry, video: Video, folder: Path, options: ScoreOptions
) -> dict[str, Any]:
    meter = FreeMeter(options.flow)
    strip = StripMaker()
    for piece in read_pieces(entry.path, most=options.most):
        meter.add(piece)
        strip.add(piece)
    row = meter.measures().row()
    if entry.path.is_file():
        row["fps"] = video.fps
    if entry.truth is not None:
        pieces = (read_pieces(path, most=options.most) for path in (entry.path, entry.truth))
        row["values"] |= compare_videos(*pieces)
    save_strip(folder / STRIPS / f"{entry.number}.webp", strip)
    return row


def _measure_world(entry: Entry, video: Video, options: ScoreOptions) -> dict[str, Any]:
    world = entry.prompt and entry.prompt.world
    if not world:
        raise BenchError(f"{entry.path.name}: its prompt names no scene of the world")
    pieces = read_pieces(entry.path, most=options.most)
    return score_world(pieces, world.scene(), video.fps or 24.0, world.edition)


def _note_conditions(
    folder: Path,
    entries: Sequence[Entry],
    models: Models,
    options: ScoreOptions,
    skipped: dict[str, str],
) -> None:
    """Keep under which conditions the rows were made, for the report; metrics add up over runs."""
    path = folder / CONDITIONS
    there = read_notes(path)
    if there and there.get("frames looked at", "all") != (options.most or "all"):
        raise BenchError(
            f"{folder} holds scores of {there['frames looked at']} frames a video: another --out "
            f"is needed for {options.most or 'all'}"
        )
    if there and FREE in options.metrics and there.get("flow", options.flow) != options.flow:
        raise BenchError(
            f"{folder} holds measures with flow={there['flow']}: another --out is needed for "
            f"flow={options.flow}"
        )
    measured = {*there.get("metrics", []), *options.metrics} - {*skipped}
    skipped = {**there.get("skipped", {}), **skipped}
    prompts = [entry.prompt for entry in entries if entry.prompt]
    notes = {
        "videos": len(entries),
        "frames looked at": options.most or "all",
        "metrics": [name for name in known_metrics() if name in measured],
        "skipped": {name: reason for name, reason in skipped.items() if name not in measured},
        "prompts": digest_of(prompts) if prompts else None,
        "flow": options.flow if FREE in options.metrics else there.get("flow"),
        "judge": models.judge_name or there.get("judge"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "versions": {"helios-jax": VERSION, "jax": jax.__version__},
    }
    write_json(path, {name: note for name, note in notes.items() if note is not None})
