"""Writing files: whole or not at all, with errors that name the file, and the same bytes each time.

A full disk, a quota or a folder that vanishes is an ``OSError`` that names no file; here it becomes
a :class:`WriteError` that does.
"""

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from helios_jax.errors import HeliosError


class WriteError(HeliosError, ValueError):
    """A file that cannot be written; the message names it and says why."""


@contextlib.contextmanager
def writing(
    path: str | os.PathLike, kind: type[HeliosError] = WriteError
) -> Generator[None, None, None]:
    """Say what the system's errors in the ``with`` block are about.

    Args:
      path: what the block writes.
      kind: of the error that is raised in the place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise kind(f"{_result(path)} cannot be written: {reason}") from error


def _result(path: str | os.PathLike) -> str:
    """The path of a result, also where ``path`` is in the hidden folder in which it is prepared."""
    for part in (Path(path), *Path(path).parents):
        if found := re.fullmatch(r"\.(.+)\.partial-[^.]*", part.name):
            return str(part.with_name(found[1]))
    return os.fspath(path)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Write a file, which is there whole or not at all, in the place of an older one.

    A process that is killed meanwhile leaves ``.NAME.partial-*``, which
    :func:`~helios_jax.locks.remove_partials` knows.

    Raises:
      WriteError: if the disk is full, or the folder is not there or cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path):
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


def tensor_digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """The SHA-256, in hexadecimal digits, of all that a safetensors file says: names, dtypes,
    shapes and values of its tensors, and its metadata.
    """
    described = [[name, array.dtype.name, array.shape] for name, array in sorted(tensors.items())]
    content = hashlib.sha256(json.dumps([sorted(metadata.items()), described]).encode())
    for _, array in sorted(tensors.items()):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def tensor_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file, the same in every process: the library itself writes
    metadata in an order that changes from one to the next.
    """
    blob = safetensors.numpy.save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return struct.pack("<Q", len(text)) + text + blob[end:]
