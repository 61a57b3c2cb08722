"""Damaged files of a dataset: whatever the bytes, they are read or refused, never a crash."""

import numpy as np
import pytest

from helios_jax.data.errors import DataError
from helios_jax.data.info import read_info
from helios_jax.data.records import from_bytes, to_bytes
from helios_jax.data.shards import read_index, read_skipped
from helios_jax.data.trajectories import (
    SUFFIX,
    StagePath,
    Trajectory,
    load_trajectory,
    save_trajectory,
)
from tests.test_readers import damaged

from .toy import toy_record, write_dataset

COUNT = 300
"""Damaged files of each kind."""


def refusal(read, *arguments):
    """The message by which a file is refused; empty if it is read."""
    try:
        read(*arguments)
    except DataError as error:
        return str(error)
    return ""


def in_header(content, rng):
    """A safetensors file whose header is damaged, at its own length; else nothing is looked at."""
    size = int.from_bytes(content[:8], "little")
    header = damaged(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


@pytest.mark.parametrize("damage", [damaged, in_header])
def test_damaged_records_are_read_or_refused(damage, record_property):
    record_property("cases", COUNT)
    blob = to_bytes(toy_record("clip-0"))
    rng = np.random.default_rng(0)
    messages = [refusal(from_bytes, damage(blob, rng)) for _ in range(COUNT)]
    assert len([message for message in messages if message]) > 100
    assert not any("\n" in message for message in messages)


def a_trajectory():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32)

    sections = []
    for _ in range(2):
        sections.append([StagePath(draw(3, 1, size, size, 2), draw(2), draw(2)) for size in (2, 4)])
    return Trajectory(sections, draw(3, 4))


@pytest.mark.parametrize("damage", [damaged, in_header])
def test_damaged_trajectories_are_read_or_refused(tmp_path, damage, record_property):
    record_property("cases", COUNT)
    path = tmp_path / f"0{SUFFIX}"
    save_trajectory(path, a_trajectory(), {})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(COUNT):
        path.write_bytes(damage(whole, rng))
        messages.append(refusal(load_trajectory, path))
    messages = [message for message in messages if message]
    assert len(messages) > 100
    assert all(message.startswith(f"{path} is no trajectory: ") for message in messages)


def test_trajectories_whose_tensors_do_not_belong_together_are_refused(tmp_path):
    path = tmp_path / f"0{SUFFIX}"
    good = a_trajectory()
    stage = good.sections[0][0]
    for bad in (
        stage._replace(sigma=stage.sigma[:1]),
        stage._replace(path=stage.path[..., 0]),
        stage._replace(path=stage.path[:, :, :1]),
        StagePath(stage.path[:1], stage.sigma[:0], stage.timestep[:0]),
    ):
        sections = [[bad, good.sections[0][1]], good.sections[1]]
        save_trajectory(path, good._replace(sections=sections), {})
        with pytest.raises(DataError, match=r"is no trajectory: ValueError: .*stage 0"):
            load_trajectory(path)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("dataset.json", lambda folder: read_info(folder)),
        ("clips-00000.jsonl", lambda folder: read_index(folder / "clips-00000.jsonl")),
        ("clips-00000.skipped.jsonl", read_skipped),
    ],
    ids=("information", "index", "skipped"),
)
def test_damaged_files_beside_the_records_are_read_or_refused(
    tmp_path, name, read, record_property
):
    record_property("cases", COUNT)
    write_dataset(tmp_path, [toy_record("clip-0"), toy_record("clip-1")])
    whole = (tmp_path / name).read_bytes() or b'{"source": "a", "kind": "b", "reason": "c"}\n'
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(COUNT):
        (tmp_path / name).write_bytes(damaged(whole, rng))
        messages.append(refusal(read, tmp_path))
    messages = [message for message in messages if message]
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)
    assert all(name.partition(".")[2] in message for message in messages)
