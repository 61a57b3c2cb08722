"""Long-running commands on a disk that fills up: one line, what was finished is kept, and with room
the same command goes on.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helios_jax.media import load_latents
from helios_jax.media.video_input import read_video
from tests.killing import run_command, start

from .toys import again, commands, litter, make_toys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Inputs, and compiled programs that these tests share."""
    folder = tmp_path_factory.mktemp("toys")
    with pytest.MonkeyPatch.context() as patch:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield make_toys(folder)


@contextlib.contextmanager
def disk(folder: Path, kib: int) -> Iterator[None]:
    """A file system of so many KiB in a folder, where this process may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


PROGRESS = re.compile(r"\w+: \d+ of |.* the text encoder takes ")
"""Lines that say how far a command is, or what is cut off a prompt."""


def run(argv: list[str], log: Path, file_kib: int = 0) -> tuple[int, list[str]]:
    """Exit status, and the lines of standard error but :data:`PROGRESS`."""
    process = start(run_command, argv, log, 1024 * file_kib)
    process.join()
    assert process.exitcode is not None
    lines = [line for line in log.read_text().splitlines() if not PROGRESS.match(line)]
    return process.exitcode, lines


KIB = {"live": 48, "whole": 48, "train": 900, "encode": 64, "convert": 128, "ode-pairs": 96}
"""Room for some of each command's results."""


@pytest.mark.parametrize("name", KIB)
def test_a_full_disk_is_one_line_and_with_room_the_command_goes_on(toys, tmp_path, name):
    small = tmp_path / "small"
    argv = commands(toys, small)[name]
    with disk(small, KIB[name]):
        status, lines = run(argv, tmp_path / "log")
        assert status == 2, lines
        assert len(lines) == 1, lines
        assert "No space left on device" in lines[0] or "MiB are free" in lines[0]
        assert litter(small) == []
        make_room(small)
        status, lines = run(again(argv, small), tmp_path / "log")
        assert status == 0, lines
        assert litter(small) == []


LIMITS = {"live": 48, "whole": 40, "train": 8, "encode": 32, "convert": 32, "ode-pairs": 32}
"""KiB that a file may have, as under a quota: less than each command's largest."""


@pytest.mark.parametrize("name", LIMITS)
def test_a_quota_is_one_line_and_without_it_the_command_goes_on(toys, tmp_path, name):
    argv = commands(toys, tmp_path)[name]
    status, lines = run(argv, tmp_path / "log", LIMITS[name])
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert "File too large" in lines[0]
    assert litter(tmp_path) == []
    status, lines = run(again(argv, tmp_path), tmp_path / "log")
    assert status == 0, lines
    assert litter(tmp_path) == []


def test_a_video_is_made_in_full_where_only_the_disk_of_its_latents_is_full(toys, tmp_path):
    """The latents' first chunks are kept, and the line names both."""
    small = tmp_path / "small"
    argv = [*commands(toys, small)["whole"], f"--out={tmp_path / 'a.mp4'}"]
    with disk(small, 48):
        status, lines = run(argv, tmp_path / "log")
        assert status == 2
        assert len(lines) == 1, lines
        assert "a.safetensors cannot be written: No space left on device" in lines[0]
        assert f"written in full: {tmp_path / 'a.mp4'}" in lines[0]
        assert read_video(tmp_path / "a.mp4", 64, 64, 24).num_frames == 132
        latents, _ = load_latents(small / "a.safetensors")
        assert 0 < latents.shape[1] < 36
        assert latents.shape[1] % 9 == 0


@pytest.mark.parametrize("name", KIB)
def test_a_folder_that_cannot_be_written_is_one_line(toys, tmp_path, name):
    """A file system that is read only."""
    small = tmp_path / "small"
    with disk(small, 900):
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        status, lines = run(commands(toys, small)[name], tmp_path / "log")
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert "Read-only file system" in lines[0]
