"""Where results go: which paths can be written, and files that are whole or absent."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

from helios_jax.locks import replace_folder
from helios_jax.media.ffmpeg import MediaError, find_ffmpeg
from helios_jax.writers import writing

KINDS = {
    ".mp4": "video (H.264)",
    ".gif": "animation",
    ".safetensors": "latents",
    "": "folder of PNG images; a path that ends in / is one too",
}
"""What can be written, by the suffix of the path."""

PARTIAL = ".partial-"
"""Follows a result's name in that of the hidden folder in which it is prepared."""


def is_pipe(path: str | os.PathLike) -> bool:
    """Whether ``path`` is standard output, ``-``, or a named pipe: what is written there cannot be
    taken back.
    """
    with contextlib.suppress(OSError):
        return os.fspath(path) == "-" or Path(path).is_fifo()
    return False


def output_kind(path: str | os.PathLike) -> str:
    """The key of :data:`KINDS` for a path; pipes take mp4.

    Raises:
      MediaError: if the suffix is not known, or no file can have the name.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise MediaError(f"{name!r}: no file can have such a name")
    if is_pipe(path):
        return ".mp4"
    suffix = "" if name.endswith(os.sep) else Path(name).suffix.lower()
    if suffix not in KINDS:
        known = ", ".join(f"{key or 'no suffix'} ({kind})" for key, kind in KINDS.items())
        raise MediaError(f"{name}: cannot write {suffix} files; known: {known}")
    return suffix


def check_rate(path: str | os.PathLike, fps: int | float) -> None:
    """Refuse frame rates that a result cannot have.

    Raises:
      MediaError: saying what it can.
    """
    # Browsers slow down a GIF whose delays are shorter than two hundredths of a second.
    fastest = 50 if output_kind(path) == ".gif" else 1000
    if not 0 < fps <= fastest:
        raise MediaError(f"{path}: fps={fps} must be above 0 and at most {fastest}")


def check_output(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Find out whether a result can be written at ``path``, before anything heavy is done for it.

    A file that exists is replaced without asking, as is an empty folder.

    Args:
      path: see :data:`KINDS`.
      overwrite: let a folder of images take the place of an older one.

    Raises:
      MediaError: if the suffix is unknown, the parent folder missing or not writable, if something
        stands at ``path`` that must not be replaced, if ``-`` is a terminal, or if there is no
        ffmpeg.
    """
    kind = output_kind(path)
    if kind != ".safetensors":
        find_ffmpeg(path)
    if is_pipe(path):
        if os.fspath(path) == "-" and sys.stdout.isatty():
            raise MediaError("-: standard output is a terminal; lead it to a player or a file")
        return
    if kind:
        check_file(path)
        return
    target = _check_parent(path)
    with writing(target, MediaError):
        if target.exists():
            _check_folder(target, overwrite)


def check_file(path: str | os.PathLike) -> None:
    """Find out whether a file can be written, whatever its suffix.

    Raises:
      MediaError: if its folder is missing or not writable, or something else stands there.
    """
    target = _check_parent(path)
    with writing(target, MediaError):
        if target.is_dir():
            raise MediaError(
                f"{target} is a folder; name a file, or end the path in / to write PNG images"
            )
        if target.exists() and not target.is_file():
            raise MediaError(f"{target} is no file: it is not replaced, name another path")


def check_apart(outputs: Sequence[str | os.PathLike], inputs: Sequence[str | os.PathLike]) -> None:
    """Refuse results that would take the place of a file that is read for them, by whatever name or
    link.

    Args:
      outputs: paths of results. A folder of images must not hold what is read, either.
      inputs: files and folders that are read.

    Raises:
      MediaError: naming the first.
    """
    for output in outputs:
        folder = os.path.join(os.path.realpath(output), "")
        for given in inputs:
            inside = os.path.isdir(output) and os.path.realpath(given).startswith(folder)
            with contextlib.suppress(OSError, ValueError):  # one of them is not there
                inside = inside or os.path.samefile(output, given)
            if inside:
                raise MediaError(
                    f"{os.fspath(output)} would take the place of {os.fspath(given)}, which is "
                    "read for it: name another path"
                )


def numbered(path: str | os.PathLike, count: int) -> list[str]:
    """The paths of ``count`` results: ``path`` itself for one; ``clip_0.mp4``, ``clip_1.mp4`` and
    so on for several of ``clip.mp4``.

    Raises:
      MediaError: if ``path`` is a pipe, which takes one.
    """
    name = os.fspath(path)
    if count == 1:
        return [name]
    if is_pipe(path):
        raise MediaError(f"{name} takes one video, not {count}")
    stem, suffix = os.path.splitext(name)
    if name.endswith(os.sep):
        stem = name.rstrip(os.sep)
        suffix = os.sep
    return [f"{stem}_{i}{suffix}" for i in range(count)]


@contextlib.contextmanager
def staged(target: Path, overwrite: bool = False) -> Generator[Path]:
    """A path to write a file or a folder to, beside ``target``; it becomes ``target`` when the
    block ends, and is removed if the block fails.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(target, MediaError))
        folder = stack.enter_context(_partial_folder(target))
        partial = Path(folder, f"new{target.suffix}")
        yield partial
        if partial.is_dir() and target.is_dir():
            _check_folder(target, overwrite)  # it had time to change
            replace_folder(target, partial)
            return
        if partial.is_file():  # some libraries keep what they write from other users
            mask = os.umask(0)
            os.umask(mask)
            partial.chmod(0o666 & ~mask)
        partial.replace(target)


def _partial_folder(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder beside a result, whose name :func:`~helios_jax.locks.remove_partials` knows
    if it is left by a process that was killed.
    """
    return tempfile.TemporaryDirectory(prefix=f".{target.name}{PARTIAL}", dir=target.parent)


def _check_parent(path: str | os.PathLike) -> Path:
    """The absolute path, beside which a folder could be made."""
    target = Path(os.path.abspath(path))
    with writing(target, MediaError):
        if not target.parent.is_dir():
            raise MediaError(
                f"{target}: the folder {target.parent} does not exist; create it first"
            )
        folder = tempfile.mkdtemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent)
        with contextlib.suppress(FileNotFoundError):  # the path's writer may remove it first
            os.rmdir(folder)
    return target


def _check_folder(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise MediaError(f"{folder} is a file; PNG images need a folder")
    names = [entry.name for entry in folder.iterdir()]
    if names and not overwrite:
        raise MediaError(
            f"{folder} is not empty; remove it, allow it to be overwritten, or name another folder"
        )
    others = sorted(name for name in names if not re.fullmatch(r"\d{5,}\.png", name))
    if others:
        raise MediaError(
            f"{folder} is not overwritten: it holds more than numbered PNG images, {others[0]} for "
            "one; name another folder"
        )
