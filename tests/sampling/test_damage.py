"""Damaged tables and schedules: whatever the bytes, they are read or refused in one line."""

import numpy as np
import pytest

from helios_jax.errors import HeliosError
from helios_jax.sampling.curves import save_curves
from helios_jax.sampling.prompts import read_schedules, to_schedule
from helios_jax.sampling.statistics import load_statistics, save_statistics
from tests.test_readers import GOOD, damaged


def refusal(read, path):
    """The message by which a file is refused; empty if it is read."""
    try:
        read(path)
    except HeliosError as error:
        return str(error)
    return ""


COUNT = 300
"""Damaged files of each kind."""


def refusals(read, path, content):
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(COUNT):
        path.write_bytes(damaged(content, rng))
        messages.append(refusal(read, path))
    return [message for message in messages if message]


SCHEDULES = {
    "json": b'[{"prompt": "a ball", "chunks": 4}, {"prompt": "it rolls", "chunks": 3, "blend": 1}]',
    "yaml": b"- {prompt: a ball, chunks: 4}\n- prompt: it rolls\n  chunks: 3\n  blend: 1\n",
    "csv": GOOD["csv"],
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_damaged_schedules_are_read_or_refused(tmp_path, kind, record_property):
    record_property("cases", COUNT)

    def read(path):
        for schedule in read_schedules(path).values():
            to_schedule(schedule, 2)

    path = tmp_path / f"a.{kind}"
    messages = refusals(read, path, SCHEDULES[kind])
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)
    assert max(map(len, messages)) < 600


def test_damaged_statistics_are_drawn_or_refused(tmp_path, record_property):
    record_property("cases", COUNT)
    rows = [{"chunk": i, "video": 0, "latents_mean": 0.25 * i, "drift": 1e-3} for i in range(3)]
    path = tmp_path / "a.csv"
    save_statistics(path, rows)
    assert load_statistics(path) == rows

    def draw(path):
        save_curves(tmp_path / "a.svg", load_statistics(path))

    messages = refusals(draw, path, path.read_bytes())
    assert len(messages) > 50
    assert all(message.startswith(f"{path} cannot be read: ") for message in messages)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"chunk,video,a\n", "it has no rows"),
        (b"chunk,video,a\n0,0\n", "line 2 has 2 cells"),
        (b"chunk,video,a\n0,0,1,2\n", "line 2 has 4 cells"),
        (b"chunk,video,a\n0,0,inf\n", "row 1: a='inf' is not a number"),
        (b"chunk,video,a\n0,0,x\n", "row 1: a='x' is not a number"),
        (b"chunk,video,a\n1e300,0,1\n", "row 1: chunk must be a number from 0"),
        (b"chunk,a\n0,1\n", "row 1: video must be a number from 0"),
        (b"\x89PNG\r\n\x1a\n", "it is not UTF-8 text"),
    ],
)
def test_a_table_without_statistics_is_refused(tmp_path, content, reason):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(HeliosError, match=reason):
        load_statistics(tmp_path / "a.csv")


def test_a_prompt_of_100_megabytes_is_refused():
    with pytest.raises(HeliosError, match="a prompt has at most 100,000"):
        to_schedule("a" * 100_000_000, 1)
