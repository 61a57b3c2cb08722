"""Count what docs/trust.md promises: run the tests, write how many cases each promise had.

  python benchmarks/trust.py

takes half an hour on one core, most of it for processes that are killed. ``--only=kills,races``
runs some promises and leaves the other rows of the table as they are.
"""

import argparse
import datetime
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/trust.md"
BEGIN = "<!-- begin trust -->\n"
END = "<!-- end trust -->\n"


class Promise(NamedTuple):
    """A row of the table.

    Attributes:
      text: what is promised.
      tests: files of tests, or single ones.
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
    "pickles": Promise(
        "A PyTorch pickle is read as data: it calls nothing, changes nothing, ends, and takes "
        "little memory",
        ("tests/checkpoint/test_pickles.py",),
        "programs",
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
    "locks": Promise(
        "One writer a path: the second is told who has it; a dead one's lock is taken over, and "
        "what it left is removed",
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
        ("tests/commands/test_killed_commands.py::" + "test_killed_at_random_moments",),
        "kills",
    ),
    "races": Promise(
        "Two of the same command at once: one is refused in one line, or they share the work; the "
        "results are those of one",
        ("tests/commands/test_killed_commands.py::" + "test_of_two_at_once",),
        "races",
    ),
    "disks": Promise(
        "A full disk, a quota or a read-only file system is one line and exit status 2; what was "
        "finished is kept, and with room the same command goes on",
        ("tests/commands/test_full_disk.py",),
        "commands",
    ),
}


class Counter:
    """A plugin of pytest that counts cases: those a test records, a property's examples, or one."""

    def __init__(self) -> None:
        self.examples: dict[str, int] = {}
        self.outcomes: dict[str, tuple[str, int]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note how many examples hypothesis makes, which it keeps in a private attribute."""
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


def main() -> None:
    """Run the tests and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PROMISES))
    names = parser.parse_args().only.split(",")
    counter = Counter()
    files = sorted({test.partition("::")[0] for name in names for test in PROMISES[name].tests})
    words = [test.partition("::")[2] for name in names for test in PROMISES[name].tests]
    chosen = [f"-k={' or '.join(words)}"] if all(words) else []
    options = ["-q", "-m", "slow or not slow", "-p", "no:cacheprovider"]
    pytest.main([*options, *chosen, *files], plugins=[counter])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {}
    for line in old.splitlines():
        if match := re.match(r"\| (.*?) \| ", line):
            rows[match[1]] = line
    lines = ["| promise | how it is tested | cases | result |", "|---|---|---|---|"]
    for name, promise in PROMISES.items():
        if name in names:
            lines.append(row(promise, counter))
        elif promise.text in rows:
            lines.append(rows[promise.text])
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n\n{END}{after}", encoding="utf-8")
    print("\n".join([*lines, "", machine()]))


def row(promise: Promise, counter: Counter) -> str:
    """The table's line of a promise."""
    own = []
    for node, (outcome, cases) in counter.outcomes.items():
        if any(node.startswith(test) for test in promise.tests):
            own.append((outcome, cases))
    passed = sum(cases for outcome, cases in own if outcome == "passed")
    skipped = sum(outcome == "skipped" for outcome, _ in own)
    failed = sum(outcome == "failed" for outcome, _ in own)
    result = f"{failed} tests failed" if failed else "all passed"
    if skipped:
        result += f"; {skipped} tests skipped"
    where = ", ".join(f"`{test.partition('/')[2]}`" for test in promise.tests)
    return f"| {promise.text} | {where} | {passed:,} {promise.cases} | {result} |"


def machine() -> str:
    """Where and with what this was counted."""
    today = datetime.date.today()
    return (
        f"{today}, {platform.processor() or platform.machine()}, Python "
        f"{platform.python_version()}, jax {jax.__version__}"
    )


if __name__ == "__main__":
    main()
