"""train.py as it is used: runs that are stopped, killed and gone on with, in several processes, and
refused.
"""

import dataclasses
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helios_jax.checkpoint import CheckpointError
from helios_jax.commands.train import main
from helios_jax.config import ConfigError, from_dict, to_dict
from helios_jax.data.errors import DataError
from helios_jax.locks import LockedError, lock
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import TrainConfig
from helios_jax.training.loop import train as train_here
from tests.toys import toy_config, write_records

ROOT = Path(__file__).parents[2]

# ml_collections loads recipes so.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")

CLOCK = ("step_seconds", "tokens_per_second", "teraflops")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Records to train on and to validate with, and a compile cache for all runs."""
    folder = tmp_path_factory.mktemp("training")
    write_records(folder / "train", 6)
    write_records(folder / "validation", 2, seed=1)
    return folder


def command(data: Path, run: Path, objective: str, *more: str) -> list[str]:
    return [
        sys.executable,
        "train.py",
        f"--config=tests/training/recipe.py:{objective}",
        f"--config.data.train={data / 'train'}",
        f"--config.data.validation={data / 'validation'}",
        "--config.validation.every=2",
        "--config.validation.batches=1",
        "--config.ema.decay=0.9",
        f"--run={run}",
        f"--compile_cache={data / 'cache'}",
        *more,
    ]


def start(*args) -> subprocess.Popen:
    return subprocess.Popen(
        command(*args), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def train(*args) -> str:
    with start(*args) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def refused(*args) -> str:
    with start(*args) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 1, err
    return err


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def final_state(run: Path) -> tuple[int, dict[str, np.ndarray]]:
    return Checkpoints(run / "checkpoints", {}, free=("",), read_only=True).read()


def assert_same(one: Path, other: Path) -> None:
    """Parameters, optimiser, average, order of data and metrics, bit for bit."""
    (step, state) = final_state(one)
    (other_step, other_state) = final_state(other)
    assert step == other_step
    assert state.keys() == other_state.keys()
    assert any("ema" in name for name in state)
    for name, leaf in state.items():
        np.testing.assert_array_equal(leaf, other_state[name], err_msg=name)
    assert metrics(one) == metrics(other)


@pytest.fixture(scope="session")
def straight(data):
    """A run of the first stage in one piece."""
    train(data, data / "straight", "flow")
    return data / "straight"


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_where_one_in_a_piece_does(data, straight, tmp_path):
    """SIGKILL at random moments, saving included: the next start goes on from a step that verifies,
    and nothing is lost but time.
    """
    moments = random.Random(0)
    run = tmp_path / "run"
    for _ in range(10):
        with start(data, run, "flow", "--config.save_every=1") as process:
            seen = (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").exists() else 0
            deadline = time.monotonic() + 120
            # From when it gets under way: before, there is nothing to lose.
            while process.poll() is None and time.monotonic() < deadline:
                if (run / "metrics.jsonl").exists() and (
                    run / "metrics.jsonl"
                ).stat().st_size != seen:
                    break
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            process.communicate()
    train(data, run, "flow", "--config.save_every=1")
    assert_same(straight, run)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["pyramid", "distillation"])
def test_later_stages_go_on_exactly_after_sigterm(data, tmp_path, objective):
    """Stopped by SIGTERM it saves and leaves with status 0; 2 + 2 steps in two processes are 4 in
    one, bit for bit.
    """
    train(data, tmp_path / "straight", objective)
    run = tmp_path / "run"
    with start(data, run, objective, "--config.steps=100000") as process:
        # The first line tells of the validation before the first step, which is then under way.
        while process.poll() is None and not (
            (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size
        ):
            time.sleep(0.05)
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "stopped after" in out
    done = final_state(run)[0]
    assert done < 4, "the machine is too fast for this test"
    assert "from step" in train(data, run, objective)
    assert_same(tmp_path / "straight", run)


@pytest.mark.slow
def test_two_processes_train_as_one(data, straight, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    joined = [f"--coordinator=localhost:{port}", "--processes=2"]
    # One device each, and the same run folder, as on a cluster with a shared disk.
    both = [
        start(data, tmp_path / "run", "flow", *joined, f"--process={number}") for number in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    for one, other in zip(metrics(straight), metrics(tmp_path / "run"), strict=True):
        for name in ("loss", "gradient_norm", "validation_loss"):
            if name in one:
                assert other[name] == pytest.approx(one[name], rel=1e-5)
    assert "steps an epoch" not in out  # what both have to say, the first says alone


@pytest.mark.slow
def test_a_run_of_another_kind_is_refused(data, straight):
    """Another stage, or geometry: the differences are listed before anything is computed."""
    err = refused(data, straight, "pyramid")
    assert "objective: there 'flow', here 'pyramid'" in err.replace('"', "'")
    err = refused(data, straight, "flow", "--config.trainable.rank=8")
    assert "trainable.rank: there 4, here 8" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": ["/nowhere"]}}, "/nowhere"),
        ({"data": {"train": []}}, "data.train names no folder of records"),
        ({"checkpoint": "/nowhere"}, "/nowhere is not a directory"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"trainable": {"lora": "nothing"}}, "trainable.lora: no module matches 'nothing'"),
        ({"trainable": {"full": "nothing"}}, "trainable.full='nothing' matches no parameter"),
        ({"data": {"batch_size": 3000}}, "batch_size=3000 clips of one size are needed"),
        (
            {"data": {"text_rows": 6}},
            "data.text_rows=6 must be more than the longest prompt's 6 tokens, or 32",
        ),
        (
            {"model": {"text_encoder": {"d_model": 8}, "transformer": {"text_dim": 8}}},
            "text_width: there 16, here 8",
        ),
        ({"fsdp": 3}, "does not fit 1 devices"),
        ({"model": {"sample": {"history_sizes": [8, 2, 1]}}}, "must sum to 19"),
        (
            {"objective": "distillation", "model": {"scheduler": {"solver": "euler"}}},
            "a student's model.scheduler.solver is 'dmd'",
        ),
        ({"objective": "stills"}, "objective='stills' is unknown; there are flow, pyramid"),
        ({"accumulate": 3}, "data.batch_size=2 does not divide into accumulate=3 parts"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(data, tmp_path, changes, message):
    """One clear line, whatever is wrong, and no folder is made."""
    recipe = to_dict(toy_config(log_every=1, save_every=2))
    recipe["data"]["train"] = (str(data / "train"),)
    merge(recipe, changes)
    with pytest.raises(
        (ConfigError, DataError, CheckpointError), match=re.escape(message)
    ) as caught:
        train_here(from_dict(TrainConfig, recipe), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def merge(values: dict, changes: dict) -> None:
    for name, change in changes.items():
        if isinstance(change, dict):
            merge(values[name], change)
        else:
            values[name] = change


def test_help_names_the_recipes_flag_and_an_unknown_recipe_lists_those_there_are(capsys):
    assert main(["helios-jax train", "--help"]) == 0
    assert "--config" in capsys.readouterr().out
    assert main(["helios-jax train", "--config=train/stage9"]) == 2
    assert "train/stage1_init" in capsys.readouterr().err
    assert main(["helios-jax train"]) == 2
    assert "--config names the recipe: nano/base" in capsys.readouterr().err


def test_an_unknown_objective_is_one_line_before_anything_is_planned(capsys):
    arguments = ["--config=train/stage1_init", "--config.objective=stills", "--plan"]
    assert main(["helios-jax train", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_run_that_diverges_ends_with_status_1(data, tmp_path, capsys):
    """Its loss is never finite, since its learning rate makes every weight infinite."""
    arguments = [
        "--config=tests/training/recipe.py:flow",
        f"--config.data.train={data / 'train'}",
        "--config.optimizer.learning_rate=1e30",
        "--config.max_skipped=1",
        "--config.save_every=100",
        f"--run={tmp_path / 'run'}",
        f"--compile_cache={data / 'cache'}",
    ]
    assert main(["helios-jax train", *arguments]) == 1
    assert "loss or gradient was not finite in 1 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "nearest", "beside"),
    [
        ("lr", "optimizer.learning_rate", "the recipe has accumulate"),
        ("optimizer.learning_rat", "optimizer.learning_rate", "optimizer has b1, b2"),
        ("critic.optimizer.lr", "critic.optimizer.learning_rate", "critic.optimizer has b1"),
    ],
)
def test_a_misspelt_field_names_the_nearest_one_and_those_beside_it(capsys, flag, nearest, beside):
    assert main(["helios-jax train", "--config=train/world", f"--config.{flag}=3"]) == 2
    said = capsys.readouterr().err
    assert f"--config.{flag}: there is no such field" in said
    assert f"did you mean --config.{nearest}?" in said
    assert beside in said


def test_a_preset_is_no_recipe_and_the_recipes_are_named(capsys):
    assert main(["helios-jax train", "--config=helios_base"]) == 2
    assert "training takes a recipe: nano/base" in capsys.readouterr().err


def test_every_field_of_a_recipe_can_be_shown(capsys):
    assert main(["helios-jax train", "--config=train/world", "--show_config"]) == 0
    assert "--config.optimizer.learning_rate=" in capsys.readouterr().out


def test_a_second_run_in_a_folder_is_refused(data, tmp_path):
    """Before anything there is touched; the message names the process that has it."""
    recipe = toy_config(log_every=1, save_every=2)
    recipe = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, train=(str(data / "train"),))
    )
    message = f"the run {tmp_path / 'run'} is being written by process {os.getpid()} on "
    with lock(tmp_path / "run"), pytest.raises(LockedError, match=message):
        train_here(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
