"""Latents on disk: a safetensors file with the tensor ``latents``, channels last, and some strings.

A file that still grows has a tensor for each chunk instead, ``latents/00000`` and so on, so that
each is written once; :func:`load_latents` reads both.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.media.ffmpeg import MediaError
from helios_jax.media.output import check_output, output_kind, staged
from helios_jax.types import Array, Float
from helios_jax.writers import tensor_bytes, writing

MAX_HEADER = 100_000_000
"""Bytes, as in the format's own library."""
ENTRY = 192
"""Bytes of a file's header that are enough for the entry of a chunk."""


def save_latents(
    path: str | os.PathLike,
    latents: Float[Array, "B T H W C"] | Float[np.ndarray, "B T H W C"],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write latents as float32; the file appears whole or not at all.

    Args:
      path: a ``.safetensors`` file.
      latents: normalized, as the transformer makes them.
      metadata: whatever should be kept with them (prompt, seed, ...).

    Raises:
      MediaError: if nothing can be written there.
    """
    _check_path(path)
    tensors = {"latents": np.ascontiguousarray(latents, np.float32)}
    with staged(Path(os.path.abspath(path))) as partial:
        partial.write_bytes(tensor_bytes(tensors, metadata or {}))


def load_latents(
    path: str | os.PathLike, verify: bool = True
) -> tuple[Float[np.ndarray, "B T H W C"], dict[str, str]]:
    """Read what :func:`save_latents` or :class:`LatentsWriter` wrote.

    Args:
      path: the file.
      verify: refuse NaN and infinite values, which would become a grey video.

    Returns:
      The latents, float32, and their metadata.

    Raises:
      MediaError: if the file is missing, damaged, or holds something else.
    """
    try:
        header, start = _read_header(path)
        names = sorted(name for name in header if name.partition("/")[0] == "latents")
        if not names:
            raise ValueError("it has no latents")
        parts = [_map(path, header[name], start) for name in names]
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise MediaError(f"{path}: not a file of latents: {error}") from error
    for name, part in zip(names, parts):
        if header[name]["dtype"] != "F32" or part.ndim != 5 or not part.size:
            raise MediaError(
                f"{path}: latents must be float32 [B, T, H, W, C], not {header[name]['dtype']} "
                f"{list(part.shape)}"
            )
    if len({part.shape[:1] + part.shape[2:] for part in parts}) > 1:
        raise MediaError(f"{path}: its chunks of latents have different shapes")
    latents = np.concatenate(parts, axis=1)
    if verify and not np.isfinite(latents).all():
        count = latents.size - np.count_nonzero(np.isfinite(latents))
        raise MediaError(
            f"{path}: {count} of {latents.size} values are NaN or infinite: the file is damaged, "
            "or was sampled from broken weights; --noverify (verify=False) decodes it all the same"
        )
    return latents, header.get("__metadata__", {})


class LatentsWriter:
    """Appends chunks to a file of latents, which can be read after each.

    A chunk is appended as a tensor of its own, and then the header, which has room for all of them,
    is written over. A process that is killed between the two leaves the file as it was, with bytes
    after its end that :func:`load_latents` ignores.

    Attributes:
      frames: latent frames in the file.
    """

    frames: int

    def __init__(
        self,
        path: str | os.PathLike,
        chunks: int,
        metadata: Mapping[str, str] | None = None,
        *,
        keep_frames: int = 0,
    ):
        """Open a file.

        Args:
          path: a ``.safetensors`` file; the first chunk replaces whatever is there.
          chunks: how many will be written at most.
          metadata: whatever should be kept with them (prompt, seed, ...).
          keep_frames: latent frames of the file that is there to keep, as far as it has them; what
            follows is dropped.

        Raises:
          MediaError: if nothing can be written there, or what is to be kept cannot be read.
        """
        _check_path(path)
        self._path = Path(os.path.abspath(path))
        self._header: dict[str, Any] = {"__metadata__": dict(metadata or {})}
        self._end = 0
        self.frames = 0
        # A multiple of 8, so that tensors are aligned.
        self._room = 8 * ((len(_dump(self._header)) + ENTRY * (chunks + 2)) // 8)
        if keep_frames:
            kept, _ = load_latents(path, verify=False)
            self.write(kept[:, :keep_frames])

    def write(self, latents: Float[Array, "B T H W C"] | Float[np.ndarray, "B T H W C"]) -> None:
        """Append a chunk; when this returns, it is there to be read.

        Raises:
          MediaError: if the disk is full.
        """
        chunk = np.ascontiguousarray(latents, np.float32)
        end = self._end + chunk.nbytes
        name = f"latents/{len(self._header) - 1:05d}"
        header = {**self._header, name: _entry(chunk.shape, self._end, end)}
        if self._end:
            with writing(self._path, MediaError):
                self._append(self._path, chunk, header)
        else:
            with staged(self._path) as partial:
                partial.write_bytes(struct.pack("<Q", self._room) + b" " * self._room)
                self._append(partial, chunk, header)
        self._header = header
        self._end = end
        self.frames += chunk.shape[1]

    def finish(self) -> None:
        """Make the one tensor ``latents`` of all chunks, as :func:`save_latents` writes it."""
        if not self._end:
            raise MediaError(f"{self._path}: no latents were written")
        metadata = self._header["__metadata__"]
        names = [name for name in self._header if name != "__metadata__"]
        with writing(self._path, MediaError):
            chunks = [_map(self._path, self._header[name], 8 + self._room) for name in names]
        B, _, *rest = chunks[0].shape
        frames = sum(chunk.shape[1] for chunk in chunks)
        whole = {
            "__metadata__": metadata,
            "latents": _entry((B, frames, *rest), 0, self._end),
        }
        head = _dump(whole)
        head += b" " * (-len(head) % 8)
        with staged(self._path) as partial, partial.open("wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            for video in range(B):
                for chunk in chunks:
                    file.write(chunk[video].tobytes())

    def _append(self, path: Path, chunk: np.ndarray, header: Mapping[str, Any]) -> None:
        """Add a chunk behind the others, then say so in the header."""
        before = len(_dump(self._header)) - 1 if self._end else 0
        with path.open("r+b") as file:
            file.seek(8 + self._room + self._end)
            file.write(chunk.tobytes())
            file.flush()
            # Only what is new: a process that is killed meanwhile has changed nothing else.
            file.seek(8 + before)
            file.write(_dump(header)[before:])
            file.flush()
            file.truncate(8 + self._room + self._end + chunk.nbytes)


def _check_path(path: str | os.PathLike) -> None:
    if output_kind(path) != ".safetensors":
        raise MediaError(f"{path}: latents are written to .safetensors files")
    check_output(path)


def _entry(shape: tuple[int, ...], start: int, end: int) -> dict[str, Any]:
    """A tensor in the header of a safetensors file."""
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


def _dump(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def _read_header(path: str | os.PathLike) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begin.

    Raises:
      OSError, ValueError: if it cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER):
            raise ValueError("it has no header")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ValueError("its metadata are no strings")
    return header, 8 + length


def _map(path: str | os.PathLike, entry: Mapping[str, Any], start: int) -> np.ndarray:
    """A tensor of a file, which is read when it is used.

    Raises:
      ValueError: if the file ends before the tensor does.
    """
    shape = tuple(entry["shape"])
    first, end = entry["data_offsets"]
    if not 0 <= first <= end:
        raise ValueError("a tensor lies outside of it")
    if start + end > os.path.getsize(path):
        raise ValueError("it is cut short")
    if entry["dtype"] != "F32":
        return np.empty(shape, np.void)
    if end - first != 4 * math.prod(shape):
        raise ValueError("a tensor has not the size that its shape says")
    return np.memmap(path, "<f4", "r", start + first, shape)
