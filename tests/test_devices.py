"""What is said where no device, or another than the GPU of the machine, computes."""

import os
import subprocess
import sys

import pytest

from helios_jax.devices import nvidia_gpus
from helios_jax.memory.compiler import has_plugin


def run(*arguments, **environment):
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=env | environment, check=False
    )


@pytest.mark.skipif(bool(nvidia_gpus()), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("platform", "arguments"),
    [
        ("cuda", ["sample", "--config=tiny", "--prompt=a ball", "--out=ball.mp4"]),
        ("abacus", ["sample", "--prompt=a ball", "--out=ball.mp4"]),
        ("cuda", ["train", "--config=nano/vae", "--run=run"]),
    ],
)
def test_a_platform_that_is_not_there_is_one_line(platform, arguments, tmp_path, monkeypatch):
    """Whatever the command: exit status 2, no traceback, and what was asked for is named."""
    monkeypatch.chdir(tmp_path)
    result = run("-m", "helios_jax", *arguments, JAX_PLATFORMS=platform)
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert f"there is no device of JAX_PLATFORMS={platform} to compute on" in line
    assert not list(tmp_path.glob("*.mp4"))


FALLS_BACK = """
import logging, sys
from pathlib import Path
from helios_jax.devices import OneLine
logging.getLogger("jax._src.xla_bridge").addFilter(OneLine(Path(sys.argv[1])))
import jax
print(jax.default_backend())
"""


@pytest.mark.skipif(
    not has_plugin() or bool(nvidia_gpus()), reason="needs the plugin without what it looks for"
)
def test_a_gpu_that_cannot_be_used_is_one_line(tmp_path):
    """The plugin without cuDNN, on a machine whose driver shows a GPU: a CPU computes, and a line
    says so. Without a GPU there is nothing to say.
    """
    (tmp_path / "dev").mkdir()
    silent = run("-c", FALLS_BACK, str(tmp_path))
    assert (silent.stdout, silent.stderr) == ("cpu\n", "")
    (tmp_path / "dev" / "nvidia0").touch()
    told = run("-c", FALLS_BACK, str(tmp_path))
    assert told.stdout == "cpu\n"
    [line] = told.stderr.splitlines()
    assert line.startswith("the GPU is not used, a CPU computes instead: Unable to load cuDNN")


def test_gpus_are_counted_by_the_files_of_their_driver(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia1", "nvidia0"):
        (tmp_path / "dev" / name).touch()
    assert nvidia_gpus(tmp_path) == ["nvidia0", "nvidia1"]
    assert nvidia_gpus(tmp_path / "elsewhere") == []
