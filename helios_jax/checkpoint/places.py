"""Where weights are: a path, a folder of the Hugging Face cache, or the name of a repository in it.

Nothing here opens a connection: what is not on this machine is named, with the command that
downloads it.
"""

import contextlib
import os
import re
import shlex
from pathlib import Path

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.other_files import check_is_file

REPOSITORIES = (
    "BestWishYsh/Helios-Base",
    "BestWishYsh/Helios-Mid",
    "BestWishYsh/Helios-Distilled",
    "Wan-AI/Wan2.1-T2V-1.3B",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "Wan-AI/Wan2.1-T2V-14B",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers",
)
"""Repositories of the Hugging Face Hub with weights that are converted as they are."""

_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_REVISION = re.compile(r"(?P<name>[^@]+)@(?P<revision>[\w][\w./-]*)")
_CACHED = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")


def resolve(source: str | os.PathLike) -> Path:
    """The file or the folder that ``source`` names.

    Args:
      source: a path; a repository's folder in the Hugging Face cache (``models--ORG--NAME``, or its
        ``snapshots``); or ``ORG/NAME``, a repository that is in the cache, and
        ``ORG/NAME@REVISION``, a branch, a tag or the beginning of a commit of it.

    Raises:
      CheckpointError: if nothing is there, with the command that downloads it where that is known;
        or if it is a pipe or a device, or a repository of several snapshots of which none is named.
    """
    path = Path(source)
    with contextlib.suppress(RuntimeError):  # no such user
        path = path.expanduser()
    if _exists(path):
        if not path.is_dir():
            check_is_file(path)
        return _snapshot(path)
    name = str(source).rstrip("/")
    revision = ""
    if match := _REVISION.fullmatch(name):
        name, revision = match.groups()
    if _REPOSITORY.fullmatch(name):
        for cache in _caches():
            cached = cache / f"models--{name.replace('/', '--')}"
            if cached.is_dir():
                return _snapshot(cached, revision)
    raise CheckpointError(_nothing_there(name, revision))


def _exists(path: Path) -> bool:
    """Whether a file or a folder is there.

    Raises:
      CheckpointError: if that cannot be known.
    """
    try:
        return path.exists()
    except OSError as error:  # no permission, or a name that is too long
        name = str(path)
        shown = name if len(name) < 200 else f"{name[:200]}..."
        raise CheckpointError(f"cannot read {shown}: {error.strerror}") from error


def repository(path: Path) -> str | None:
    """The repository that a path of the Hugging Face cache, or a folder with the name of a known
    one, holds.
    """
    for part in path.parts[::-1]:
        if match := _CACHED.fullmatch(part):
            return f"{match['owner']}/{match['name']}"
    for part in path.parts[::-1]:
        if known := _known(part):
            return known
    return None


def download_command(folder: Path, names: list[str]) -> str:
    """The command that downloads files which a folder lacks.

    Args:
      folder: where they should be.
      names: their names in it.
    """
    found = repository(folder)
    cached = any(_CACHED.fullmatch(part) for part in folder.parts)
    root = folder if (folder / "model_index.json").exists() else folder.parent
    inside = names
    parts = folder.parts
    if cached and "snapshots" in parts:
        at = max(i for i, part in enumerate(parts) if part == "snapshots")
        inside = ["/".join([*parts[at + 2 :], name]) for name in names]
    elif root != folder and (root / "model_index.json").exists():
        inside = [f"{folder.name}/{name}" for name in names]
    else:
        root = folder
    place = "" if cached else f" --local-dir {root}"
    options = "--include " if any("*" in name for name in names) else ""
    shown = " ".join(shlex.quote(name) for name in inside)
    return f"hf download {found or 'REPOSITORY'} {options}{shown}{place}"


def _caches() -> list[Path]:
    """Where the Hub's own client keeps what it downloads, by the variables that it reads."""
    if place := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return [Path(place).expanduser()]
    if home := os.environ.get("HF_HOME"):
        return [Path(home).expanduser() / "hub"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [cache / "huggingface/hub"]


def _snapshot(path: Path, revision: str = "") -> Path:
    """The snapshot of a repository's folder in the cache: that of a revision, else of
    ``refs/main``, else the one that was touched last. Any other path is itself.
    """
    folder = path.parent if path.name == "snapshots" else path
    if not (folder / "snapshots").is_dir() or not _CACHED.fullmatch(folder.resolve().name):
        return path
    snapshots = {}
    for entry in sorted((folder / "snapshots").iterdir()):
        if entry.is_dir():
            snapshots[entry.name] = entry
    name = repository(folder)
    if not snapshots:
        raise CheckpointError(
            f"{folder} has no snapshot: its download did not get far; run `hf download {name}`"
        )
    commit = _commit(folder / "refs", revision or "main")
    if commit in snapshots:
        return snapshots[commit]
    if not revision:
        return max(snapshots.values(), key=lambda entry: entry.stat().st_mtime)
    begun = [commit for commit in snapshots if revision and commit.startswith(revision)]
    if len(begun) == 1:
        return snapshots[begun[0]]
    raise CheckpointError(
        f"{folder} has no revision {revision} ({', '.join(list(snapshots)[:4])}): run `hf download "
        f"{name} --revision {revision}`"
    )


def snapshot_remark(source: str | os.PathLike, place: Path) -> str | None:
    """A sentence that says which snapshot of several was taken where nothing names one."""
    folder = place.parent.parent
    if place.parent.name != "snapshots" or Path(source).resolve() == place.resolve():
        return None
    others = [entry for entry in place.parent.iterdir() if entry.is_dir()]
    named = _REVISION.fullmatch(str(source)) or _commit(folder / "refs", "main") == place.name
    if len(others) < 2 or named or not _CACHED.fullmatch(folder.resolve().name):
        return None
    name = repository(folder)
    return (
        f"of {len(others)} snapshots the newest is taken, {name}@{place.name}; refs/main names none"
    )


def _commit(references: Path, name: str) -> str:
    """The commit that a branch or a tag is; "" where the cache does not know."""
    path = references / name
    if ".." in path.parts or not path.is_file():
        return ""
    with open(path, "rb") as file:
        return file.read(100).decode("utf-8", "replace").strip()


def _nothing_there(name: str, revision: str = "") -> str:
    """What is said of a source that is not there."""
    if match := re.fullmatch(r"(?:https?|hf)://(?:huggingface\.co/)?([\w.-]+/[\w.-]+).*", name):
        return (
            f"{name} is an address, and nothing is downloaded here: run `hf download {match[1]}` "
            f"and name {match[1]}"
        )
    if len(name) > 200:
        name = f"{name[:200]}..."
    known = _known(name.rpartition("/")[2])
    if _REPOSITORY.fullmatch(name) and (known is None or known == name):
        caches = ", ".join(map(str, _caches()))
        return (
            f"{name} is not there: no such path, and no such repository in the Hugging Face cache "
            f"({caches}); if it is a repository of the Hub, `hf download {name}"
            f"{f' --revision {revision}' if revision else ''}` puts it there"
        )
    if known:
        return (
            f"{name} is not there: the weights are on the Hugging Face Hub; "
            f"`hf download {known} --local-dir {name}` puts them there"
        )
    return f"{name} is not there: no such file or directory"


def _known(name: str) -> str | None:
    """The known repository of this name, upper or lower case."""
    for repository in REPOSITORIES:
        if repository.rpartition("/")[2].lower() == name.lower():
            return repository
    return None
