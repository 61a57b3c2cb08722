"""convert_torch_weights.py: what it says and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helios_jax.checkpoint import load_config
from tests.checkpoint.torch_models import save_pipeline

ROOT = Path(__file__).parents[2]


def script(*arguments, **options):
    command = [sys.executable, str(ROOT / "convert_torch_weights.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "helios"
    save_pipeline(folder)
    return folder


def test_it_converts_there_and_back_and_sums_up(folder, tmp_path):
    there = script("--source", folder, "--out", tmp_path / "ours")
    assert (there.returncode, there.stderr) == (0, "")
    note, wrote = there.stdout.splitlines()
    assert note == f"note: {folder} has no digests: what was altered there is not noticed"
    assert wrote.startswith(f"wrote {tmp_path / 'ours'}: ")
    assert "B/s)" in there.stdout
    assert load_config(tmp_path / "ours").transformer.num_layers == 3
    back = script("--to_diffusers", "--source", tmp_path / "ours", "--out", tmp_path / "back")
    assert back.returncode == 0
    assert (tmp_path / "back/model_index.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "nowhere", "--out", "x"], "nowhere is not there: no such file or directory"),
        (["--source", "nowhere"], "Flag --out must have a value"),
        (["--sorce", "nowhere"], "Unknown command line flag 'sorce'. Did you mean: source"),
        (["--source", "a", "--out", "b", "--dtype", "fp4"], "flag --dtype=fp4"),
        (["--source", "a", "--out", "b", "c"], "unexpected argument 'c'"),
        (
            ["--source", "a", "--out", "b", "--to_diffusers", "--init_from_wan"],
            "--init_from_wan is for PyTorch weights: leave it out with --to_diffusers",
        ),
        (
            ["--source", "a", "--out", "b", "--to_diffusers"],
            "a is not a directory: no checkpoint there",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, arguments, says):
    result = script(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_teaches_by_example():
    result = script("--help")
    assert "python convert_torch_weights.py --source Helios-Distilled --out" in result.stdout


SLOWLY = """
import signal, sys, time
# A shell that runs these tests in the background has SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from helios_jax.checkpoint import component
pieces = component._pieces
component._pieces = lambda *arguments: (time.sleep(0.2), pieces(*arguments))[1]
sys.argv = ["convert_torch_weights.py", "--source", {source!r}, "--out", {out!r}]
import runpy
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_it_leaves_nothing(folder, tmp_path, number):
    code = SLOWLY.format(
        source=str(folder),
        out=str(tmp_path / "ours"),
        script=str(ROOT / "convert_torch_weights.py"),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".ours.partial-*/transformer/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (143, 130)
    assert list(tmp_path.iterdir()) == []


def test_killed_it_leaves_nothing_that_looks_finished(folder, tmp_path):
    code = SLOWLY.format(
        source=str(folder),
        out=str(tmp_path / "ours"),
        script=str(ROOT / "convert_torch_weights.py"),
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not list(tmp_path.glob(".ours.partial-*/transformer/*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not (tmp_path / "ours").exists()
    (left,) = tmp_path.glob(".ours.partial-*")  # beside it, the lock of a writer that is gone
    assert not (left / "digests.json").exists()
    result = script("--to_diffusers", "--source", left, "--out", tmp_path / "back")
    assert result.returncode == 2
    assert "not a finished helios-jax checkpoint" in result.stderr


def test_the_configuration_is_plain_json(folder, tmp_path):
    script("--source", folder, "--out", tmp_path / "ours")
    values = json.loads((tmp_path / "ours/config.json").read_text())
    assert (values["format"], values["version"]) == ("helios-jax", 2)
    assert set(values) - {"format", "version"} == {
        "transformer",
        "vae",
        "text_encoder",
        "scheduler",
        "sample",
    }
