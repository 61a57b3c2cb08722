"""Long-running commands that are killed at random moments, and two at once: nothing is lost,
nothing is left lying about, and the results are those of a run that nothing disturbed.
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from helios_jax.training.checkpoints import Checkpoints
from tests.killing import start_command

from .toys import again, commands, litter, make_toys

pytestmark = pytest.mark.slow

KILLS = {"live": 17, "whole": 15, "train": 17, "encode": 17, "convert": 17, "ode-pairs": 17}
"""100 in all."""

RACES = {"live": 4, "whole": 3, "train": 4, "encode": 3, "convert": 3, "ode-pairs": 3}
"""20 in all."""

CLOCK = ("step_seconds", "tokens_per_second", "teraflops")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Inputs, and compiled programs that these tests share."""
    folder = tmp_path_factory.mktemp("toys")
    with pytest.MonkeyPatch.context() as patch:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield make_toys(folder)


@pytest.fixture(scope="module")
def undisturbed(toys, tmp_path_factory):
    """The results of each command by its name."""
    found = {}

    def make(name: str) -> dict[str, object]:
        if name not in found:
            out = tmp_path_factory.mktemp("undisturbed")
            run(commands(toys, out)[name], out)
            found[name] = results(name, out)
        return found[name]

    return make


def run(argv: list[str], out: Path) -> None:
    """A command to its end."""
    log = out.with_name(f"{out.name}.log")
    process = start_command(argv, log)
    process.join()
    assert process.exitcode == 0, log.read_text()


def results(name: str, out: Path) -> dict[str, object]:
    """The bytes of each file; of a run, the last step's arrays and the metrics without times."""
    assert litter(out) == []
    if name != "train":
        return {
            str(path.relative_to(out)): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
    step, leaves = Checkpoints(out / "run/checkpoints", {}, free=("",), read_only=True).read()
    lines = []
    for line in (out / "run/metrics.jsonl").read_text().splitlines():
        lines.append([part for part in line.split(", ") if part.split('"')[1] not in CLOCK])
    arrays = {name: leaf.tobytes() for name, leaf in leaves.items()}
    return {"step": step, "metrics": lines, **arrays}


def contents(out: Path) -> list[tuple[str, int]]:
    """Names and sizes of all that is there."""
    found = []
    for folder, _, names in os.walk(out):  # which passes over folders that have just gone
        found.append((folder, 0))
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # it has just gone
                found.append((path, os.stat(path).st_size))
    return sorted(found)


def kill_after_changes(process, out: Path, changes: int, delay: float) -> bool:
    """Kill a process after so many changes of its folder and some seconds; whether it was alive."""
    seen = contents(out)
    while process.is_alive() and changes:
        now = contents(out)
        changes -= now != seen
        seen = now
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("name", KILLS)
def test_killed_at_random_moments_it_ends_as_if_it_never_had_been(
    toys, undisturbed, tmp_path, name, record_property
):
    """SIGKILL while files are written; the same command goes on, or --resume of a live video."""
    record_property("cases", KILLS[name])
    expected = undisturbed(name)
    moments = random.Random(name)
    killed = 0
    rounds = 0
    while killed < KILLS[name]:
        out = tmp_path / str(rounds)
        out.mkdir()
        rounds += 1
        alive = True
        while alive and killed < KILLS[name]:
            argv = again(commands(toys, out)[name], out)
            process = start_command(argv, tmp_path / "log")
            alive = kill_after_changes(
                process, out, moments.randint(1, 8), moments.choice([0, 0, moments.uniform(0, 0.1)])
            )
            killed += alive
        run(again(commands(toys, out)[name], out), out)
        assert results(name, out) == expected
    assert killed == KILLS[name]


@pytest.mark.parametrize("name", RACES)
def test_of_two_at_once_one_is_refused_or_both_share_the_work(
    toys, undisturbed, tmp_path, name, record_property
):
    """Whoever comes second is told who holds the files, in one line, and spoils nothing."""
    record_property("cases", RACES[name])
    expected = undisturbed(name)
    moments = random.Random(name)
    for number in range(RACES[name]):
        out = tmp_path / str(number)
        out.mkdir()
        logs = [tmp_path / f"{number}-{racer}.log" for racer in range(2)]
        racers = []
        for log in logs:
            racers.append(start_command(commands(toys, out)[name], log))
            time.sleep(moments.choice([0, moments.uniform(0, 1)]))
        for racer in racers:
            racer.join()
        statuses = sorted(racer.exitcode for racer in racers)
        assert statuses in ([0, 0], [0, 2]), [log.read_text() for log in logs]
        for racer, log in zip(racers, logs, strict=True):
            if racer.exitcode:
                said = log.read_text().splitlines()[-1]
                assert "is being written by process" in said or "exists already" in said
        assert results(name, out) == expected
