"""Progress where there is no terminal, as in a log file."""

import time

import pytest

from helios_jax import progress
from helios_jax.progress import Progress, track


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)


def wait_for(capsys, text: str) -> str:
    """What was printed, as soon as ``text`` is in it."""
    found = ""
    for _ in range(500):
        found += capsys.readouterr().err
        if text in found:
            break
        time.sleep(0.01)
    return found


def test_a_plain_line_comes_now_and_then_without_a_terminal(soon, capsys):
    with Progress("sampling", total=44, unit="chunks") as shown:
        shown.update(3)
        shown.note("12.50 frames/s")
        line = wait_for(capsys, "12.50 frames/s\n")
    assert "sampling: 3 of 44 chunks, 00:00, 12.50 frames/s\n" in line
    assert "\r" not in line


def test_a_line_comes_while_the_first_step_compiles(soon, capsys):
    with Progress("compiling"):
        assert wait_for(capsys, "compiling: 00:00\n")


def test_work_that_is_soon_done_says_nothing(capsys):
    assert list(track(range(3), "counting", unit="numbers")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_bytes_are_counted_for_people(soon, capsys):
    with Progress("loading", total=10**9, unit="B") as shown:
        shown.update(25 * 10**7)
        assert "loading: 250M of 1.00G B" in wait_for(capsys, "B")
