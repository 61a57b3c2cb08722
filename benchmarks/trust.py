"""Count what docs/trust.md promises: run the tests, write how many cases each promise had.

  python benchmarks/trust.py

takes half an hour on one core, most of it for processes that are killed. ``--only=kills,races``
runs some promises and leaves the other rows of the table as they are; each row says when it was
counted. Exit status: 0 where all that ran has passed.
"""

import argparse
import datetime
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/trust.md"
BEGIN = "<!-- begin trust -->\n"
END = "<!-- end trust -->\n"
HEAD = ("| promise | how it is tested | cases | result | counted |", "|---|---|---|---|---|")
KILLED = "tests/commands/test_killed_commands.py"
DISK = "tests/commands/test_full_disk.py"


class Promise(NamedTuple):
    """A row of the table.

    Attributes:
      text: what is promised.
      tests: files of tests, or the beginnings of single ones' names.
      cases: what is counted.
    """

    text: str
    tests: tuple[str, ...]
    cases: str


PROMISES = {
    "text": Promise(
        "Text, JSON, JSON lines, YAML and CSV are read, or refused in one line that names the "
        "file; sizes, rows, depth and aliases have limits",
        ("tests/test_readers.py",),
        "bad files",
    ),
    "tables": Promise(
        "Prompt schedules and tables of statistics likewise",
        ("tests/sampling/test_damage.py",),
        "bad files",
    ),
    "records": Promise(
        "Records, their indices and trajectories likewise; an altered trajectory is found",
        ("tests/data/test_damage.py",),
        "bad files",
    ),
    "states": Promise(
        "A saved state that is altered, cut, or has impossible values is refused before anything "
        "is built from it",
        ("tests/sampling/test_state_damage.py",),
        "bad files",
    ),
    "checkpoints": Promise(
        "Any change of any file of a checkpoint is found; headers that lie are refused",
        ("tests/checkpoint/test_damaged_files.py",),
        "bad files",
    ),
    "others": Promise(
        "What is taken for weights and is none is refused by what it is; pipes and devices are not "
        "waited for; adapters whose settings or names are made to take time are refused at once",
        ("tests/checkpoint/test_other_files.py", "tests/checkpoint/test_hostile_adapters.py"),
        "bad files",
    ),
    "pickles": Promise(
        "A PyTorch pickle is read as data: it calls nothing, changes nothing, ends, and takes "
        "little memory",
        ("tests/checkpoint/test_pickles.py",),
        "programs",
    ),
    "clips": Promise(
        "A video or an image that is damaged anywhere, that names other files, or that would fill "
        "memory is read or refused in one line",
        (
            "tests/media/test_damaged_videos.py",
            "tests/media/test_video_refused.py",
            "tests/media/test_images.py",
        ),
        "bad files and uses",
    ),
    "videos": Promise(
        "A live mp4 that is torn or altered is cut back to its whole chunks, or refused",
        ("tests/media/test_live.py",),
        "bad files and uses",
    ),
    "calls": Promise(
        "Calls from Python with wrong types, misspelt options or empty latents are one line",
        ("tests/sampling/test_bad_calls.py",),
        "calls",
    ),
    "flags": Promise(
        "Flags that are empty, not finite or of thousands of digits are one line, and no file's "
        "name is obeyed by a terminal",
        ("tests/commands/test_cli.py",),
        "commands",
    ),
    "locks": Promise(
        "One writer a path, by whatever name; the second is told who has it; a dead one's lock is "
        "taken over, and what it left is removed",
        ("tests/test_locks.py", "tests/sampling/test_writing.py"),
        "uses",
    ),
    "lines": Promise(
        "A writer of a live video that is killed between any two lines of its code is gone on "
        "with: video, latents, statistics, curves and state end byte for byte as undisturbed",
        ("tests/sampling/test_killed_writing.py",),
        "kills",
    ),
    "kills": Promise(
        "`sample` (live and whole), `train`, `encode`, `convert` and `ode-pairs`, killed at random "
        "moments, end bit for bit as undisturbed and leave nothing lying about",
        (f"{KILLED}::test_killed_at_random_moments",),
        "kills",
    ),
    "races": Promise(
        "Two of the same command at once: one is refused in one line, or they share the work; the "
        "results are those of one",
        (f"{KILLED}::test_of_two_at_once",),
        "races",
    ),
    "disks": Promise(
        "A full disk is one line and exit status 2; what was finished is kept, and with room the "
        "same command goes on",
        (f"{DISK}::test_a_full_disk",),
        "commands",
    ),
    "quotas": Promise(
        "The same under a quota and on a read-only file system; a video is made in full where only "
        "its latents' disk is full",
        tuple(f"{DISK}::test_a_{what}" for what in ("quota", "video", "folder")),
        "commands",
    ),
}


class Counter:
    """A plugin of pytest that runs the chosen tests and counts their cases: those a test records, a
    property's examples, or one.
    """

    def __init__(self, tests: Iterable[str]) -> None:
        self.tests = tuple(tests)
        self.examples: dict[str, int] = {}
        self.outcomes: dict[str, tuple[str, int]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what nobody asked for, and note how many examples hypothesis makes, which it
        keeps in a private attribute.
        """
        items[:] = [item for item in items if item.nodeid.startswith(self.tests)]
        for item in items:
            settings = getattr(
                getattr(item, "obj", None), "_hypothesis_internal_use_settings", None
            )
            if settings is not None:
                self.examples[item.nodeid] = settings.max_examples

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended."""
        if report.when == "call" or report.outcome != "passed":
            recorded: dict[str, Any] = dict(report.user_properties)
            cases = recorded.get("cases", self.examples.get(report.nodeid, 1))
            self.outcomes[report.nodeid] = (report.outcome, int(cases))


def main() -> int:
    """Run the tests and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PROMISES))
    names = parser.parse_args().only.split(",")
    if unknown := sorted({*names} - {*PROMISES}):
        parser.error(f"--only: there is no {', '.join(unknown)}, only {', '.join(PROMISES)}")
    os.chdir(ROOT)  # the names of tests are relative to it
    tests = [test for name in names for test in PROMISES[name].tests]
    counter = Counter(tests)
    files = sorted({test.partition("::")[0] for test in tests})
    options = ["-q", "-m", "slow or not slow", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    status = pytest.main([*options, *files], plugins=[counter])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = table(names, counter, old)
    PAGE.write_text(
        f"{before}{BEGIN}\n{chr(10).join(lines)}\n\n{machine()}\n\n{END}{after}", encoding="utf-8"
    )
    print("\n".join(lines))
    return int(status)


def table(names: Iterable[str], counter: Counter, old: str) -> list[str]:
    """The table's lines: of the promises that ran, and the others as they were."""
    kept = {}
    for line in old.splitlines():
        if match := re.match(r"\| (.*?) \| ", line):
            kept[match[1]] = line
    lines = list(HEAD)
    for name, promise in PROMISES.items():
        if name in names:
            lines.append(row(promise, counter))
        elif promise.text in kept:
            lines.append(kept[promise.text])
    return lines


def row(promise: Promise, counter: Counter) -> str:
    """The table's line of a promise."""
    own = []
    for node, outcome in counter.outcomes.items():
        if node.startswith(promise.tests):
            own.append(outcome)
    passed = sum(cases for outcome, cases in own if outcome == "passed")
    skipped = sum(outcome == "skipped" for outcome, _ in own)
    failed = sum(outcome == "failed" for outcome, _ in own)
    result = f"{failed} tests failed" if failed else "all passed" if passed else "none ran"
    if skipped:
        result += f"; {skipped} tests skipped"
    where = ", ".join(dict.fromkeys(f"`{_short(test)}`" for test in promise.tests))
    today = datetime.date.today()
    return f"| {promise.text} | {where} | {passed:,} {promise.cases} | {result} | {today} |"


def _short(test: str) -> str:
    return test.partition("/")[2].partition("::")[0]


def machine() -> str:
    """Where and with what this was counted."""
    return (
        f"Counted on a shared core ({platform.machine()}), Python {platform.python_version()}, jax "
        f"{jax.__version__}."
    )


if __name__ == "__main__":
    sys.exit(main())
