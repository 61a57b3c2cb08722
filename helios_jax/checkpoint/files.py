"""Files that are either whole or absent, and digests that prove it later."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from helios_jax.checkpoint.errors import CheckpointError

DIGESTS = "digests.json"

Progress = Callable[[int], Any]
"""Told how many bytes more are done."""


@contextlib.contextmanager
def new_directory(
    path: str | os.PathLike, overwrite: bool = False, marker: str = DIGESTS
) -> Iterator[Path]:
    """A directory that appears under its name only when the block has ended well.

    Yields a hidden sibling ``.<name>.partial-*`` to be filled. Leaving the block renames it to
    ``path``; an exception (SIGINT, and SIGTERM where the script turns it into one) removes it.
    Killed outright, it leaves the sibling, which nothing takes for a checkpoint.

    Args:
      path: the directory to make.
      overwrite: replace ``path`` if it holds a file named ``marker``; nothing else is ever
        replaced.
      marker: a file that only directories of this kind have.

    Raises:
      CheckpointError: if ``path`` exists and is not to be replaced, or cannot be written.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path} exists already: choose another name or pass --overwrite (overwrite=True)"
        )
    if path.exists() and not (path / marker).is_file():
        raise CheckpointError(
            f"{path} has no {marker}, so it is something else: it is not replaced, choose another name"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        os.sync()
        replaced = partial.with_name(partial.name.replace(".partial-", ".replaced-"))
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a JSON file.

    Raises:
      CheckpointError: if there is no such file or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON dictionary")
    return value


def write_digests(root: Path, progress: Progress = lambda done: None) -> None:
    """Write ``digests.json``: size and sha256 of every file under ``root``. Always the last file
    written.

    ``progress`` is told the bytes of each file.
    """
    names = sorted(
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.is_file() and file.name != DIGESTS
    )
    with ThreadPoolExecutor() as threads:
        digests = {}
        for name, sha256 in zip(names, threads.map(lambda name: _sha256(root / name), names)):
            digests[name] = {"size": (root / name).stat().st_size, "sha256": sha256}
            progress(digests[name]["size"])
    write_json(root / DIGESTS, {"files": digests})


def read_digests(root: Path) -> dict[str, dict[str, Any]]:
    """The size and sha256 of every file of a checkpoint, by its path relative to ``root``.

    Raises:
      CheckpointError: if ``digests.json`` is absent or damaged.
    """
    if not (root / DIGESTS).is_file():
        raise CheckpointError(
            f"{root} is not a finished helios-jax checkpoint: {DIGESTS} is missing"
        )
    try:
        files = read_json(root / DIGESTS)["files"]
        return {
            name: {"size": entry["size"], "sha256": entry["sha256"]}
            for name, entry in files.items()
        }
    except (TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{root / DIGESTS} is altered: it does not list the files' sizes and digests"
        ) from None


def check_sizes(root: Path, digests: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> None:
    """Check that files are there in full, without reading them.

    Raises:
      CheckpointError: naming each file that is missing or has another size.
    """
    problems = []
    for name in names:
        path, size = root / name, digests[name]["size"]
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != size:
            kind = "truncated" if path.stat().st_size < size else "altered"
            problems.append(f"{path} is {kind} ({path.stat().st_size} bytes, not {size})")
    _raise(problems)


def check_digests(
    root: Path,
    digests: Mapping[str, Mapping[str, Any]],
    names: Iterable[str],
    progress: Progress = lambda done: None,
) -> None:
    """Check the contents of files against their digests, several at once; ``progress`` is told the
    bytes of each.

    Raises:
      CheckpointError: naming each file that was altered.
    """
    names = list(names)
    check_sizes(root, digests, names)
    with ThreadPoolExecutor() as threads:
        altered = []
        for name, sha256 in zip(names, threads.map(lambda name: _sha256(root / name), names)):
            altered += [name] if sha256 != digests[name]["sha256"] else []
            progress(digests[name]["size"])
    _raise([f"{root / name} is altered (its sha256 is not that of {DIGESTS})" for name in altered])


def _raise(problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more files" if len(problems) > 8 else ""
        )
        raise CheckpointError(f"damaged checkpoint: {shown}. Copy or convert it again")


def _sha256(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
