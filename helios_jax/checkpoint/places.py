"""Where weights are: a path, a folder of the Hugging Face cache, or the name of a repository in it.

Nothing here opens a connection: what is not on this machine is named, with the command that
downloads it.
"""

import os
import re
import shlex
from pathlib import Path

from helios_jax.checkpoint.errors import CheckpointError

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
_CACHED = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")


def resolve(source: str | os.PathLike) -> Path:
    """The file or the folder that ``source`` names.

    Args:
      source: a path; a repository's folder in the Hugging Face cache (``models--ORG--NAME``, or its
        ``snapshots``); or ``ORG/NAME``, a repository that is in the cache.

    Raises:
      CheckpointError: if nothing is there, with the command that downloads it where that is known.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _snapshot(path)
    name = str(source).rstrip("/")
    if _REPOSITORY.fullmatch(name):
        for cache in _caches():
            cached = cache / f"models--{name.replace('/', '--')}"
            if cached.is_dir():
                return _snapshot(cached)
    raise CheckpointError(_nothing_there(name))


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


def _snapshot(path: Path) -> Path:
    """The snapshot of a repository's folder in the cache: that of ``refs/main``, else the one that
    was touched last. Any other path is itself.
    """
    folder = path.parent if path.name == "snapshots" else path
    if not (folder / "snapshots").is_dir() or not _CACHED.fullmatch(folder.resolve().name):
        return path
    reference = folder / "refs/main"
    if reference.is_file():
        snapshot = folder / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if snapshot.is_dir():
            return snapshot
    snapshots = [entry for entry in (folder / "snapshots").iterdir() if entry.is_dir()]
    if not snapshots:
        name = repository(folder)
        raise CheckpointError(
            f"{folder} has no snapshot: its download did not get far; run `hf download {name}`"
        )
    return max(snapshots, key=lambda entry: entry.stat().st_mtime)


def _nothing_there(name: str) -> str:
    """What is said of a source that is not there."""
    known = _known(name.rpartition("/")[2])
    if _REPOSITORY.fullmatch(name) and (known is None or known == name):
        caches = ", ".join(map(str, _caches()))
        return (
            f"{name} is not there: no such path, and no such repository in the Hugging Face cache "
            f"({caches}); if it is a repository of the Hub, `hf download {name}` puts it there"
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
