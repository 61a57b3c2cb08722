"""Files that are either whole or absent, and digests that prove it later."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.other_files import check_is_file
from helios_jax.locks import only_writer, remove_stale_lock, replace_folder
from helios_jax.writers import writing

DIGESTS = "digests.json"
MAX_JSON_BYTES = 64 * 2**20
"""Of a configuration, an index or a list of digests; those of 14B have less than 1 MiB."""

Progress = Callable[[int], Any]
"""Told how many bytes more are done."""


class Digest(NamedTuple):
    """What a file must be: its bytes, and the SHA-256 of them in hexadecimal digits."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class FileTable:
    """The files of a checkpoint: where they are and what they must be.

    Attributes:
      root: the checkpoint directory.
      digests: of every file, by its path relative to ``root``, shared files included.
      shared: the folder of another checkpoint, relative to ``root``, that holds the files of a
        component or of the tokenizer in place of this one.
    """

    root: Path
    digests: Mapping[str, Digest]
    shared: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Where a file or a component's folder is."""
        return self.root / self.shared.get(name.partition("/")[0], "") / name

    def under(self, folder: str) -> list[str]:
        """Names of the files of a component or of the tokenizer."""
        return sorted(name for name in self.digests if name.startswith(f"{folder}/"))

    def check_sizes(self, names: Iterable[str]) -> None:
        """Check that files are there in full, without reading them.

        Raises:
          CheckpointError: naming each file that is missing or has another size.
        """
        problems = []
        for name in names:
            path = self.path(name)
            size = self.digests[name].size
            folder = name.partition("/")[0]
            if not path.is_file() and folder in self.shared:
                place = self.shared[folder]
                problems.append(f"{path} is missing (config.json says {folder} is in {place})")
            elif not path.is_file():
                problems.append(f"{path} is missing")
            elif (found := path.stat().st_size) != size:
                kind = "truncated" if found < size else "altered"
                problems.append(f"{path} is {kind} ({found} bytes, not {size})")
        raise_problems(problems)

    def check(
        self, names: Iterable[str] | None = None, progress: Progress = lambda done: None
    ) -> None:
        """Check the contents of files against their digests, several at once.

        Args:
          names: which; None for every file of the checkpoint.
          progress: told the bytes of each file that was read.

        Raises:
          CheckpointError: naming each file that is missing or was altered.
        """
        names = list(self.digests if names is None else names)
        self.check_sizes(names)
        problems = []
        with ThreadPoolExecutor() as threads:
            for name, problem in zip(names, threads.map(self.alteration, names)):
                problems += [problem] if problem else []
                progress(self.digests[name].size)
        raise_problems(problems)

    def alteration(self, name: str) -> str | None:
        """A sentence that says that a file's content is not what its digest says; None if it is."""
        path = self.path(name)
        if sha256_of(path) == self.digests[name].sha256:
            return None
        return f"{path} is altered (its sha256 is not that of {DIGESTS})"


@contextlib.contextmanager
def new_directory(
    path: str | os.PathLike, overwrite: bool = False, marker: str = DIGESTS
) -> Generator[Path]:
    """A directory that appears under its name only when the block has ended well.

    Yields a hidden sibling ``.<name>.partial-*`` to be filled. Leaving the block renames it to
    ``path``; an exception (SIGINT, and SIGTERM where the command turns it into one) removes it.
    Killed outright, it leaves the sibling, which nothing takes for a checkpoint, and which the next
    process that makes the directory removes.

    Args:
      path: the directory to make.
      overwrite: replace ``path`` if it holds a file named ``marker``; nothing else is ever
        replaced.
      marker: a file that only directories of this kind have.

    Raises:
      CheckpointError: if ``path`` exists and is not to be replaced, or cannot be written: on a
        full disk, for one.
      LockedError: if another process is making it.
    """
    path = Path(path).absolute()
    remove_stale_lock(path)
    _check_free(path, overwrite, marker)
    with writing(path, CheckpointError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(path, "the folder"):
        _check_free(path, overwrite, marker)
        with writing(path, CheckpointError):
            partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        try:
            partial.chmod(0o777 & ~_umask())
            yield partial
            if hasattr(os, "sync"):  # not on Windows
                os.sync()
            replace_folder(path, partial)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            # Errors of other files, which are read, name them.
            named = str(getattr(error, "filename", None) or partial)
            if isinstance(error, OSError) and error.strerror and named.startswith(str(partial)):
                raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
            raise


def _check_free(path: Path, overwrite: bool, marker: str) -> None:
    """Refuse a path that exists and is not to be replaced."""
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path} exists already: choose another name or pass --overwrite (overwrite=True)"
        )
    if path.exists() and not (path / marker).is_file():
        raise CheckpointError(
            f"{path} has no {marker}, so it is something else: it is not replaced, "
            "choose another name"
        )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a JSON file.

    Raises:
      CheckpointError: if there is no such file or it holds something else.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path} is missing")
        check_is_file(path)
        with open(path, "rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} has more than {MAX_JSON_BYTES >> 20} MiB, and is no JSON")
    return parse_json(path, content)


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """The dictionary in the content of a JSON file.

    Raises:
      CheckpointError: naming ``path``, if it is not JSON, too deeply nested, or not a dictionary.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise CheckpointError(f"{path} is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON dictionary")
    return value


def write_digests(
    root: Path,
    elsewhere: Mapping[str, Digest] | None = None,
    identities: Mapping[str, str] | None = None,
    progress: Progress = lambda done: None,
) -> None:
    """Write ``digests.json``: size and sha256 of every file. Always the last file written.

    Args:
      root: the directory being made; every file under it is read.
      elsewhere: digests of files that are shared, or known already and not read again.
      identities: of components, see :func:`helios_jax.checkpoint.directory.component_digest`.
      progress: told the bytes of each file that was read.
    """
    digests = dict(elsewhere or {})
    found = (str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
    names = sorted(name for name in found if name != DIGESTS and name not in digests)
    with ThreadPoolExecutor() as threads:
        for name, sha256 in zip(names, threads.map(lambda name: sha256_of(root / name), names)):
            digests[name] = Digest((root / name).stat().st_size, sha256)
            progress(digests[name].size)
    content: dict[str, Any] = {"files": {name: digests[name]._asdict() for name in sorted(digests)}}
    if identities:
        content["identities"] = dict(identities)
    write_json(root / DIGESTS, content)


def read_digests(root: Path) -> tuple[dict[str, Digest], dict[str, str]]:
    """The digests of the files of a checkpoint by name, and the identities of its components.

    Raises:
      CheckpointError: if ``digests.json`` is absent or damaged.
    """
    if not (root / DIGESTS).is_file():
        raise CheckpointError(
            f"{root} is not a finished helios-jax checkpoint: {DIGESTS} is missing"
        )
    content = read_json(root / DIGESTS)
    try:
        digests = {}
        for name, entry in content["files"].items():
            if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
                raise TypeError(name)
            digests[name] = Digest(entry["size"], entry["sha256"])
        identities = {str(key): str(value) for key, value in content.get("identities", {}).items()}
    except (TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{root / DIGESTS} is altered: it does not list the files' sizes and digests"
        ) from None
    for name in digests:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{root / DIGESTS} is altered: {name} is not a file of it")
    return digests, identities


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def raise_problems(problems: list[str]) -> None:
    """Raise a CheckpointError that lists what is wrong with files, if anything is."""
    if problems:
        shown = "; ".join(problems[:8])
        if len(problems) > 8:
            shown += f"; and {len(problems) - 8} more files"
        raise CheckpointError(f"damaged checkpoint: {shown}. Copy or convert it again")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
