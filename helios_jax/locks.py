"""One writer a path: locks that end with the process that holds them.

A lock is a file beside its path, ``.NAME.lock``, which its holder keeps locked (``flock``) and in
which it names itself. The system releases the lock when the process ends, however it ends, so the
file that a killed process leaves does not block the next one. On a file system without such locks
the file itself is the lock, until the process that it names has ended; of two processes that begin
within a moment, both may have it there.
"""

import contextlib
import datetime
import errno
import glob
import json
import logging
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from helios_jax.errors import HeliosError
from helios_jax.writers import writing

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags that Windows does not have."""

_NO_FILE = "{} cannot be locked: {} is a link, a folder, a pipe or a socket; remove it"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


class LockedError(HeliosError):
    """Another process is writing a path; the message says which."""


class Owner(NamedTuple):
    """The process that holds a lock.

    Attributes:
      host: its machine's name.
      process: its number there.
      born: when it was started, by the machine's clock; tells it from a later process with the same
        number. Empty where the system does not say.
      since: when it took the lock.
    """

    host: str
    process: int
    born: str
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    def is_gone(self) -> bool:
        """Whether the process has ended; False where this machine cannot know."""
        if self.host != socket.gethostname():
            return False
        return not _is_alive(self.process) or _born(self.process) != self.born


@contextlib.contextmanager
def lock(
    path: str | os.PathLike, what: str = "", wait_s: float = 0.0
) -> Generator[None, None, None]:
    """Be the only writer of a path while the ``with`` block runs.

    A lock that a dead process has left is taken over, which is logged. Threads of one process
    exclude one another as processes do.

    Args:
      path: a file or a folder, there or not; its folder must be there.
      what: the path in words, as in "the run".
      wait_s: seconds to wait for another writer.

    Raises:
      LockedError: if another writer has it; the message names it.
      WriteError: if nothing can be written beside the path.
    """
    path = Path(os.path.abspath(path))
    file = _lock_file(path)
    name = f"{what} {path}".strip()
    deadline = time.monotonic() + wait_s
    with writing(path):
        while (descriptor := _take(file, name, time.monotonic() >= deadline)) is None:
            time.sleep(0.02)
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for it finds that its file is gone.
        try:
            file.unlink(missing_ok=True)
        except PermissionError:  # Windows removes no open file: leave it without an owner
            os.ftruncate(descriptor, 0)
        except OSError:  # the folder can no longer be written: closing it is enough
            pass
        os.close(descriptor)


def remove_stale_lock(path: str | os.PathLike) -> None:
    """Remove the lock of a process that was killed when its work on a path was done."""
    path = Path(os.path.abspath(path))
    if _lock_file(path).exists():
        with contextlib.suppress(HeliosError), lock(path):
            pass


@contextlib.contextmanager
def only_writer(
    path: str | os.PathLike, what: str = "", *, beside: Sequence[str | os.PathLike] = ()
) -> Generator[None, None, None]:
    """Lock a path, and remove what writers of it have left that were killed.

    Args:
      path, what: of :func:`lock`.
      beside: other paths that only the path's writers write.

    Raises:
      LockedError, WriteError: as :func:`lock`.
    """
    with lock(path, what):
        for own in (path, *beside):
            remove_partials(own)
        yield


def remove_partials(path: str | os.PathLike) -> list[Path]:
    """Remove the files and folders ``.NAME.partial-*`` that dead writers of a path have left.

    The folder of a writer that died in :func:`replace_folder` comes back. Call this while the
    path's lock is held: what is there then has no writer.

    Returns:
      What was removed.
    """
    path = Path(path)
    removed = []
    for replaced in sorted(path.parent.glob(f".{glob.escape(path.name)}.replaced-*")):
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            removed.append(replaced)
        else:
            with writing(path):
                replaced.rename(path)
    for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.partial-*")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # another user's, in a folder like /tmp
                left.unlink()
        removed.append(left)
    return removed


def replace_folder(path: Path, new: Path) -> None:
    """Put a folder in the place of another, or where there was none.

    Killed between the two renames, it leaves the old one as ``.NAME.replaced-*``, which
    :func:`remove_partials` puts back.
    """
    replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    if path.exists():
        path.rename(replaced)
    new.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)


def _lock_file(path: Path) -> Path:
    """The lock of a path; one of all the names that it has by symbolic links."""
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name}.lock")


def _take(file: Path, name: str, must: bool) -> int | None:
    """Try to lock the file.

    Returns:
      Its descriptor, which holds the lock until it is closed; None to try again.

    Raises:
      LockedError: if it ``must`` be had now, and another writer has it.
    """
    # No link and no pipe: whoever may write in the folder could have put it there so that another
    # file is cut.
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # the last: a socket
            raise LockedError(_NO_FILE.format(name, file)) from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise LockedError(_NO_FILE.format(name, file))
        locked = _flock(descriptor)
        owner = _read(descriptor)
        if locked is None:
            locked = owner is None or owner.is_gone()
        if not locked and must:
            holder = owner or _read_soon(descriptor) or "another process"
            raise LockedError(
                f"{name} is being written by {holder}: wait until it has ended, or name another "
                "path"
            )
        # The last holder may have removed the file since it was opened.
        if locked and _is_same(descriptor, file):
            if owner:
                logging.getLogger(__name__).warning(
                    "%s: taking over from %s, which has ended", name, owner
                )
            try:
                _write(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    file.unlink()
                raise
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _read_soon(descriptor: int) -> Owner | None:
    """The owner's name, which it writes a moment after it has taken the lock."""
    for _ in range(50):
        time.sleep(0.01)
        if owner := _read(descriptor):
            return owner
    return None


def _flock(descriptor: int) -> bool | None:
    """Whether the lock could be had; None where the file system has no locks."""
    if sys.platform == "win32":
        import msvcrt

        # Far behind the owner's name, which others may read.
        os.lseek(descriptor, 2**20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _is_same(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Owner | None:
    """The owner that the file names; None if it names none, as while it is being written."""
    try:
        fields = json.loads(_read_start(descriptor))
        return Owner(
            str(fields["host"]), int(fields["process"]), str(fields["born"]), str(fields["since"])
        )
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None


def _read_start(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)  # Windows has no `pread`
    return os.read(descriptor, 4096)


def _write(descriptor: int) -> None:
    process = os.getpid()
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    owner = Owner(socket.gethostname(), process, _born(process), since)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(owner._asdict()).encode())


def _is_alive(process: int) -> bool:
    if process < 1:
        return False
    if sys.platform == "win32":  # where the system's lock has the say, and `kill` would kill
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _born(process: int) -> str:
    """When a process was started, in the kernel's clock ticks; empty where that is not known."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # the 22nd field; the second may hold spaces
