"""Making the videos of a benchmark, which HeliosBench leaves to the user.

A video appears whole or not at all, so whatever is there is done. Each device has a pipeline of its
own and takes the next prompt when it is free; a video does not depend on which device made it.
"""

import datetime
import math
import platform
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from helios_jax.devices import cpu_cores
from helios_jax.evaluation.bench.devices import work_on
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import GENERATION, read_json, read_rows, write_json
from helios_jax.evaluation.bench.prompts import TABLE, BenchPrompt, read_prompts, write_prompts
from helios_jax.fields import differences
from helios_jax.media import open_video_writer
from helios_jax.version import VERSION

Make = Callable[[BenchPrompt], Iterator[np.ndarray]]
"""Makes the video of a prompt, in pieces uint8 [F, Y, X, 3] that end with its last frame."""


def generate_videos(
    prompts: Sequence[BenchPrompt],
    folder: Path,
    load: Callable[[], Make],
    conditions: Mapping[str, Any],
    fps: int | float = 24,
    devices: Sequence[jax.Device] | None = None,
) -> list[Path]:
    """Make the videos that are not there yet.

    Args:
      prompts: with their lengths.
      folder: for the videos; made if it is not there.
      load: a pipeline on JAX's default device; called once for each device that has work.
      conditions: what the videos depend on, for the report. A folder holds videos of one kind.
      fps: frames per second of the files.
      devices: to work on; by default all.

    Returns:
      The paths of all videos, in the order of the prompts.

    Raises:
      BenchError: if the folder holds videos of other prompts, or made under other conditions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _join_prompts(folder / TABLE, prompts)
    log = _Log(folder / GENERATION, conditions)
    paths = [folder / prompt.video_name for prompt in prompts]
    todo: queue.SimpleQueue[BenchPrompt] = queue.SimpleQueue()
    missing = [prompt for prompt, path in zip(prompts, paths) if not path.exists()]
    for prompt in sorted(missing, key=lambda prompt: -(prompt.frames or 0)):
        todo.put(prompt)  # the longest first, so that devices end together
    frames = sum(prompt.frames or 0 for prompt in missing)
    devices = list(jax.devices() if devices is None else devices)[: len(missing)]
    with tqdm(total=frames, unit="frame", disable=None, dynamic_ncols=True) as bar:

        def work(stop: threading.Event) -> None:
            make = load()
            warm = False
            while not stop.is_set():
                try:
                    prompt = todo.get_nowait()
                except queue.Empty:
                    return
                seconds = _make_video(make, prompt, folder, fps, bar, stop)
                log.add(prompt, seconds, warm)
                warm = True

        if devices:
            work_on(devices, work)
    return paths


def _make_video(
    make: Make,
    prompt: BenchPrompt,
    folder: Path,
    fps: int | float,
    bar: tqdm,
    stop: threading.Event,
) -> float:
    """Write a video; returns the seconds that making it took, those of writing left out."""
    seconds = 0.0
    count = 0
    bar.set_description(prompt.video_name)
    with open_video_writer(folder / prompt.video_name, fps) as writer:
        pieces = make(prompt)
        while True:
            began = time.perf_counter()
            piece = next(pieces, None)
            seconds += time.perf_counter() - began
            if piece is None:
                break
            if stop.is_set():
                raise BenchError("stopped, because another device failed")
            writer.write(piece)
            count += len(piece)
            bar.update(len(piece))
        if count != prompt.frames:
            raise BenchError(f"{prompt.video_name}: {count} frames came, not {prompt.frames}")
    return seconds


class _Log:
    """Conditions and seconds of the videos in a folder, written after each."""

    def __init__(self, path: Path, conditions: Mapping[str, Any]):
        self._path = path
        there = read_json(path) if path.exists() else {}
        made = there.get("conditions", conditions)
        try:
            rows = read_rows(there.get("made", []))
            if not isinstance(made, Mapping):
                raise TypeError("its conditions are no mapping")
            numbers = [float(row[name]) for row in rows for name in ("frames", "seconds")]
            if not all(map(math.isfinite, numbers)) or min(numbers, default=1) <= 0:
                raise ValueError("frames and seconds must be greater than 0")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BenchError(
                f"{path} is damaged ({type(error).__name__}: {error}): remove it, and the times of "
                "the videos that are there are lost"
            ) from error
        if changed := [difference.name for difference in differences(made, conditions)]:
            raise BenchError(
                f"{path.parent} holds videos made with another {', '.join(changed)}: name another "
                "folder with --out"
            )
        self._content = {"conditions": dict(conditions), "machine": machine(), **_versions()}
        self._videos: dict[int, dict[str, Any]] = {row["id"]: row for row in rows}
        self._lock = threading.Lock()

    def add(self, prompt: BenchPrompt, seconds: float, warm: bool) -> None:
        """``warm``: whether its programs were compiled before."""
        with self._lock:
            row = {"id": prompt.number, "frames": prompt.frames}
            self._videos[prompt.number] = row | {"seconds": round(seconds, 6), "warm": warm}
            made = [self._videos[number] for number in sorted(self._videos)]
            speeds = [row["frames"] / row["seconds"] for row in made if row["warm"]]
            content = {**self._content, "made": made}
            if speeds:
                content["frames per second"] = round(statistics.median(speeds), 3)
            write_json(self._path, content)


def machine() -> str:
    """What this process runs on."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        cores = cpu_cores()
        return f"{cores} core{'s' if cores != 1 else ''} of {platform.machine()}"
    return f"{len(devices)} x {devices[0].device_kind}"


def _versions() -> dict[str, str]:
    versions = f"helios-jax {VERSION}, jax {jax.__version__}"
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    return {"versions": versions, "date": date}


def _join_prompts(path: Path, prompts: Sequence[BenchPrompt]) -> None:
    """Keep the prompts beside their videos, together with those that are there."""
    there = {prompt.number: prompt for prompt in read_prompts(path)} if path.exists() else {}
    for prompt in prompts:
        if there.get(prompt.number, prompt).text != prompt.text:
            raise BenchError(
                f"{path} has another prompt {prompt.number}: name another folder with --out"
            )
        there[prompt.number] = prompt
    write_prompts(path, [there[number] for number in sorted(there)])
