"""One writer a path: whoever comes second is refused, and the dead do not hold a lock."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from helios_jax.locks import LockedError, lock, remove_partials, remove_stale_lock, replace_folder

HOLD = """
import sys, time
from helios_jax.locks import lock
with lock(sys.argv[1], "the run"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path):
    """A process that holds the lock of a path."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, caplog):
    """The message names the process; a killed one's lock is taken over, with a line."""
    path = tmp_path / "run"
    process = hold(path)
    try:
        match = f"the run {path} is being written by process {process.pid} on .*, since 20"
        with pytest.raises(LockedError, match=match), lock(path, "the run"):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with caplog.at_level(logging.WARNING), lock(path, "the run"):
        pass
    assert f"taking over from process {process.pid} on" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_of_the_same_process_is_refused(tmp_path):
    ours = f"by process {os.getpid()}"
    with lock(tmp_path / "a"), pytest.raises(LockedError, match=ours):  # noqa: SIM117
        with lock(tmp_path / "a"):
            pass
    with lock(tmp_path / "a"), lock(tmp_path / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_waits_has_the_lock_once_it_is_free(tmp_path):
    """Eight threads, one after another."""
    inside, most = [], []

    def work(number):
        with lock(tmp_path / "a", wait_s=30.0):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 4096, b'{"host": 1}', b"1"])
def test_a_damaged_lock_file_does_not_block(tmp_path, content):
    (tmp_path / ".a.lock").write_bytes(content)
    with lock(tmp_path / "a"):
        pass


@pytest.fixture
def without_flock(monkeypatch):
    """As on a file system that has no locks."""

    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_without_locks_of_the_system_the_file_is_the_lock(tmp_path, without_flock, caplog):
    """A living owner keeps it; an ended one, and a later process with its number, do not."""
    with lock(tmp_path / "a"), pytest.raises(LockedError):  # noqa: SIM117
        with lock(tmp_path / "a"):
            pass
    file = tmp_path / ".a.lock"
    with lock(tmp_path / "a"):
        owner = json.loads(file.read_text())
    for change in ({"born": "1"}, {"process": 2**22 + 1}):
        file.write_text(json.dumps(owner | change))
        with lock(tmp_path / "a"):
            pass
    file.write_text(json.dumps(owner | {"host": "elsewhere"}))
    with pytest.raises(LockedError, match="on elsewhere"), lock(tmp_path / "a"):
        pass


def test_partial_files_and_folders_of_a_path_are_removed(tmp_path):
    """Those of other paths stay."""
    (tmp_path / ".a[1].partial-7").mkdir()
    (tmp_path / ".a[1].partial-7" / "b").touch()
    (tmp_path / ".a[1].partial-8").touch()
    others = [tmp_path / name for name in (".a1.partial-9", ".a[1].mp4.partial-9", "a[1]")]
    for other in others:
        other.touch()
    removed = remove_partials(tmp_path / "a[1]")
    assert [path.name for path in removed] == [".a[1].partial-7", ".a[1].partial-8"]
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path):
    """Where the new one has its place already, the old one goes."""
    old = tmp_path / ".a.replaced-7"
    old.mkdir()
    (old / "frame").touch()
    remove_partials(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "a", tmp_path / "new")
    assert not any((tmp_path / "a").iterdir())
    old.mkdir()
    remove_partials(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_that_cannot_be_written_is_not_left(tmp_path):
    """No file may have a byte, as on a full disk."""
    code = (
        "import resource, signal, sys; from helios_jax.locks import lock; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); lock(sys.argv[1]).__enter__()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "a cannot be written: File too large" in done.stderr
    assert not any(tmp_path.iterdir())


def test_what_another_user_left_does_not_keep_a_writer_from_its_work():
    """Nothing of it can be removed, as in /tmp."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        left = folder / ".a.partial-7"
        left.touch()
        folder.chmod(0o555)
        if os.getuid() == 0:
            os.seteuid(65534)
        try:
            remove_partials(folder / "a")
        finally:
            os.seteuid(os.getuid())
            folder.chmod(0o755)
        assert left.exists()


def test_a_lock_that_a_process_left_after_its_work_is_removed(tmp_path):
    """One that is held stays."""
    (tmp_path / ".a.lock").touch()
    remove_stale_lock(tmp_path / "a")
    assert not any(tmp_path.iterdir())
    with lock(tmp_path / "a"):
        remove_stale_lock(tmp_path / "a")
        assert (tmp_path / ".a.lock").exists()


def _link_hard(path):
    os.link(path.with_name("victim"), path)


def _link(path):
    os.symlink("victim", path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, _link, _link_hard])
def test_what_somebody_put_in_the_place_of_a_lock_is_not_touched(tmp_path, make):
    """A link would have another file cut, and a pipe be waited for."""
    (tmp_path / "victim").write_text("precious")
    make(tmp_path / ".a.lock")
    refused = pytest.raises(LockedError, match="is a link, a folder, a pipe or a socket")
    with refused, lock(tmp_path / "a"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_one_path_by_several_names_has_one_writer(tmp_path):
    """A file, a run's folder, and what is not there yet."""
    (tmp_path / "run").mkdir()
    for name in ("a.mp4", "run", "new"):
        link = tmp_path / f"latest-{name}"
        link.symlink_to(name)
        with lock(tmp_path / name), pytest.raises(LockedError):  # noqa: SIM117
            with lock(link):
                pass
