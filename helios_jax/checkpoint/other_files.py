"""What a file is that was taken for weights and holds none, told by its first bytes."""

import os
import stat
from pathlib import Path

from helios_jax.checkpoint.errors import CheckpointError

LOOKED_AT = 4096
"""Bytes of a file's beginning."""

STARTS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself: `git lfs pull` in its repository gets it",
    ),
    (b"<!doctype html", "a web page, not the file itself: download it again"),
    (b"<html", "a web page, not the file itself: download it again"),
    (b"<?xml", "a page of XML, such as a server's error: download it again"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "packed with gzip: unpack it first"),
    (b"BZh", "packed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "packed with xz: unpack it first"),
    (b"(\xb5/\xfd", "packed with zstd: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"RIFF", "a picture or a video"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"\x80", "a pickle: load it with the program that wrote it, and save it as safetensors"),
)
"""How files begin, in lower case where it is text, and what they are."""


def describe_other_file(path: Path) -> str | None:
    """What a file is, ``"a web page, ..."``; None if nothing tells.

    Raises:
      CheckpointError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(LOOKED_AT)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not start:
        return "empty: was its download interrupted?"
    text = start.lstrip().lower()
    for mark, what in STARTS:
        if start.startswith(mark) or text.startswith(mark):
            return what
    if start[4:8] == b"ftyp":
        return "a video or a picture"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if not any(start):
        return "full of zeros where its header should be: was its download interrupted?"
    if all(byte > 31 or byte in b"\t\n\r" for byte in start) and b"\x7f" not in start:
        return "a text"
    return None


def check_is_file(path: Path) -> None:
    """Refuse pipes, devices and the like, from which nothing can be mapped, and which may never
    end.

    Raises:
      CheckpointError: naming the path.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # no file can have such a name
        raise CheckpointError(f"cannot read {str(path)!r}: {error}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or the like"
        raise CheckpointError(f"cannot read {path}: it is {kind}, not a file")
