"""A run's metrics: whole lines, cut on resume, TensorBoard and wandb on request, one process."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from helios_jax.config import ConfigError
from helios_jax.errors import HeliosError
from helios_jax.training.metrics import Metrics


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def record(folder, steps, resumed_from=0, **options):
    metrics = Metrics(folder, resumed_from, **options)
    for step in steps:
        metrics.write(step, {"loss": jnp.float32(1 / step), "tokens": 7 * step})
    metrics.close()


def test_each_step_is_a_line_that_is_on_disk_at_once(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(1, {"loss": jnp.float32(0.5), "skipped": 0})
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5, "skipped": 0}]
    metrics.write(2, {"loss": float("nan"), "skipped": 1})
    assert lines(tmp_path)[1] == {"step": 2, "loss": None, "skipped": 1}
    metrics.close()


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    record(tmp_path / "straight", range(1, 9))
    record(tmp_path / "resumed", range(1, 7))
    with open(tmp_path / "resumed/metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # killed in the middle of a line
    record(tmp_path / "resumed", range(5, 9), resumed_from=4)
    assert (tmp_path / "resumed/metrics.jsonl").read_bytes() == (
        tmp_path / "straight/metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        '{"loss": 1}',
        '{"step": "a"}',
        '{"step": NaN}',
        '{"step": [' + "[" * 9000,
        '{"step": 1' + "0" * 5000 + "}",
    ],
    ids=range(8),
)
def test_lines_that_are_no_metrics_are_cut_off(tmp_path, line):
    record(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    record(tmp_path, range(3, 4), resumed_from=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_binary_file_is_refused_and_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(HeliosError, match=r"metrics\.jsonl cannot be read: it is not UTF-8 text"):
        Metrics(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\xff\xfe"


def test_starting_from_a_step_that_everything_was_recorded_of_cuts_nothing(tmp_path):
    record(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").stat()
    record(tmp_path, [], resumed_from=3)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before.st_ino
    assert len(lines(tmp_path)) == 3


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    record(tmp_path / "run", [1, 2], tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboardX")
    record(tmp_path, [1, 2], tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"loss") == events.read_bytes().count(b"tokens") == 2


@pytest.mark.parametrize(
    ("package", "option"), [("tensorboardX", {"tensorboard": True}), ("wandb", {"wandb": {}})]
)
def test_a_missing_package_is_one_clear_line(tmp_path, monkeypatch, package, option):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=f"needs {package}, which is not installed: pip install {package}"
    ):
        Metrics(tmp_path, **option)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_wandb_goes_on_with_the_run_it_began(tmp_path, monkeypatch):
    """The package itself is not needed: a stand-in notes what it is called with."""
    starts = []
    logged = []
    run = types.SimpleNamespace(
        log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: None
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: starts.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    record(tmp_path, [1], wandb={"project": "films"})
    record(tmp_path, [2], resumed_from=1, wandb={"project": "films"})
    assert starts[0]["id"] == starts[1]["id"] != ""
    assert {start["project"] for start in starts} == {"films"}
    assert logged == [(1, {"loss": 1.0, "tokens": 7}), (2, {"loss": 0.5, "tokens": 14})]
