"""What a check of the kernels found on this machine's device, which the choice of an implementation
consults: one that was wrong is not used.

The file is made by ``helios-jax doctor``. Verdicts hold for one device and one set of versions.
"""

import functools
import importlib.metadata
import json
import os
from pathlib import Path

OK = "ok"
RUNNING = "the process ended while it ran"
"""What stands in the file before a kernel runs, and stays where it takes the process with it."""


def path() -> Path:
    """The file, in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "helios-jax" / "kernels.json"


def device_key(kind: str) -> str:
    """A device of this kind, and the versions that its kernels are made by."""
    versions = []
    for name in ("jax", "jaxlib", "triton", "jax-triton"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return ", ".join([kind, *versions])


def record(kind: str, operation: str, implementation: str, verdict: str) -> None:
    """Write a verdict, and forget those of other devices and versions.

    Args:
      kind: the device's.
      operation, implementation: what was checked.
      verdict: :data:`OK`, or what is wrong.
    """
    own = dict(_read(path(), device_key(kind)))
    own[f"{operation}: {implementation}"] = verdict
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    beside.write_text(json.dumps({device_key(kind): own}, indent=1) + "\n")
    beside.replace(file)
    _read.cache_clear()


def against(kind: str, operation: str, implementation: str) -> str | None:
    """Why an implementation should not be used on a device of this kind, or None."""
    try:
        found = _read(path(), device_key(kind))
    except RuntimeError:  # there is no home
        return None
    verdict = found.get(f"{operation}: {implementation}", OK)
    return None if verdict == OK else f"helios-jax doctor found on this device: {verdict}"


@functools.cache
def _read(file: Path, key: str) -> dict[str, str]:
    """Verdicts of a device; none where there is no file, or one that cannot be read."""
    try:
        found = json.loads(file.read_text()).get(key, {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
