"""The course of helios-nano: parts that fit one another, run once each, and gone on with."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from helios_jax import nano
from helios_jax.commands.cli import recipes, run_command
from helios_jax.commands.nano_course import (
    CourseError,
    Part,
    course,
    curves,
    overview,
    read_ledger,
    run_parts,
)
from helios_jax.config import from_dict
from helios_jax.training.config import TrainConfig

LONG = (
    "ode-pairs",
    f"--checkpoint={nano.ASSETS / 'nano-mid'}",
    "--world=1000",
    "--sections=1",
    "--out=trajectories",
)


def values(part, *names):
    """Folders that an argument of these names holds."""
    found = []
    for argument in part.arguments:
        name, _, value = argument.removeprefix("--config.").removeprefix("--").partition("=")
        if name in names:
            found += value.strip("()").replace("'", "").split(",")
    return found


def test_every_part_reads_what_an_earlier_one_has_written():
    made = set()
    for part in course():
        needed = values(
            part,
            "checkpoint",
            "critic.checkpoint",
            "base",
            "source",
            "data.train",
            "data.validation",
        )
        if part.arguments[0] == "export":
            needed += values(part, "run")
        assert set(needed) <= made, part
        made |= {*values(part, "out"), *values(part, "run")}


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections, which loads recipes
@pytest.mark.parametrize("part", course(), ids=lambda part: part.name)
def test_every_part_has_flags_that_its_command_knows(part):
    name, *arguments = part.arguments
    module = importlib.import_module(f"helios_jax.commands.{name.replace('-', '_')}")
    parsed = []
    assert run_command("", module.define_flags, parsed.append, [name, *arguments]) == 0
    if name == "train":
        from_dict(TrainConfig, parsed[0].config.to_dict())


def test_every_recipe_of_nano_is_a_part_once():
    """All but the one that goes on with a user's clips."""
    trained = {f"nano/{part.name}" for part in course() if part.arguments[0] == "train"}
    assert trained | {"nano/own_clips"} == set(recipes("nano"))
    assert len({part.name for part in course()}) == len(course())


def test_finished_parts_are_skipped_and_a_failed_one_is_run_again(tmp_path):
    parts = [Part("first", ("--version",)), Part("second", ("nonsense",))]
    with pytest.raises(CourseError, match=r"second ended with status 2: see .*second\.log"):
        run_parts(parts, tmp_path)
    assert "unknown command" in (tmp_path / "logs" / "second.log").read_text()
    parts[1] = Part("second", ("--version",))
    run_parts(parts, tmp_path)
    assert [(line["part"], line["finished"]) for line in read_ledger(tmp_path)] == [
        ("first", True),
        ("second", False),
        ("second", True),
    ]
    assert all(line["seconds"] > 0 for line in read_ledger(tmp_path))
    assert "core-hours" in overview(parts, tmp_path)


def test_a_stopped_part_is_not_finished(tmp_path):
    """SIGTERM reaches the part that runs, and the part is run again, whatever its status."""
    code = (
        "from pathlib import Path\n"
        "from helios_jax.commands.nano_course import Part, run_parts\n"
        f"parts = [Part('long', {LONG}), Part('next', ('--version',))]\n"
        f"run_parts(parts, Path({str(tmp_path)!r}))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "logs" / "long.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert [(line["part"], line["finished"]) for line in read_ledger(tmp_path)] == [("long", False)]


def test_curves_keep_every_validation(tmp_path):
    run = tmp_path / "runs" / "base"
    run.mkdir(parents=True)
    lines = [{"step": step, "loss": 1 / 3, "step_seconds": 1.0} for step in range(1000)]
    lines[777]["validation_loss"] = 2 / 3
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [points] = curves(tmp_path).values()
    assert 150 < len(points) < 250
    assert {"step": 777, "loss": 0.3333, "validation_loss": 0.6667} in points
    assert points[0] == {"step": 0, "loss": 0.3333}
