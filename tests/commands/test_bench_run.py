"""A benchmark from captions to a report, in processes of its own that are killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "helios_jax", "bench"]
GENERATE = ["generate", "--world=3", "--durations=33", "--steps=1", "--out=videos/nano"]
SCORE = ["score", "--videos=videos/nano", "--out=results/nano", "--metrics=world,free"]


def run(folder: Path, words: list[str]) -> str:
    done = subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_when(folder: Path, words: list[str], there: Callable[[], bool]) -> None:
    """Start a command, and kill it outright as soon as something is there."""
    process = subprocess.Popen([*COMMAND, *words], cwd=folder, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "ended before it could be killed"
    process.kill()
    process.wait()


def scores(folder: Path) -> list[dict]:
    """Every row of every result file, without the time that it took."""
    rows = []
    for name in ("world_results.json", "free_measures.json"):
        content = json.loads((folder / "results/nano" / name).read_text())
        rows += [{**row, "seconds": None} for row in content["per_video_results"]]
    return rows


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_report_of_one_that_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    for folder in (stopped, whole):
        folder.mkdir()
    videos = stopped / "videos/nano"
    kill_when(stopped, GENERATE, lambda: any(videos.glob("*.mp4")))
    kept = {path: path.stat().st_mtime_ns for path in videos.glob("*.mp4")}
    assert 0 < len(kept) < 3
    run(stopped, GENERATE)
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())
    results = stopped / "results/nano/world_results.json"
    kill_when(stopped, SCORE, results.exists)
    assert len(json.loads(results.read_text())["per_video_results"]) < 3
    run(stopped, SCORE)
    for words in (GENERATE, SCORE):
        run(whole, words)
    names = sorted(path.name for path in videos.iterdir())
    assert names == sorted(path.name for path in (whole / "videos/nano").iterdir())
    for path in videos.glob("*.mp4"):
        assert path.read_bytes() == (whole / "videos/nano" / path.name).read_bytes()
    assert scores(stopped) == scores(whole)
    assert "results/nano: " in run(stopped, ["merge", "results"])
    run(stopped, ["compare", "results/nano", "--out=report"])
    page = (stopped / "report.html").read_text()
    assert page.count("data:image/webp") == 3
    assert "made with checkpoint nano-base" in page
