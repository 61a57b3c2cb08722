"""Reading and writing safetensors files tensor by tensor, and the folders of shards that Diffusers
and Transformers save.

A file is eight bytes (the header's length), a JSON header (dtype, shape and place of each tensor)
and the tensors, end to end. Tensors are mapped into memory one at a time, so that no more than the
one in use counts.
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import Progress, parse_json, read_json, write_json
from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.other_files import check_is_file, describe_other_file
from helios_jax.checkpoint.places import download_command

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""numpy's dtype by safetensors' name."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""safetensors' name by numpy dtype."""

TORCH_METADATA = {"format": "pt"}
FLAX_METADATA = {"format": "flax"}
"""What a file says of the framework whose axes its tensors have."""

MAX_SHARDS = 1000
"""That are looked for by the name of one of them."""

MAX_AXES = 32
MAX_SIZE = 2**48
"""Far beyond what any file has, and far from what NumPy cannot count."""

MAX_HEADER_BYTES = 100_000_000
"""The limit that the format's own library has."""


@runtime_checkable
class WritableTensor(Protocol):
    """A tensor that can be written: its values come in pieces."""

    @property
    def dtype(self) -> np.dtype:
        """Its dtype."""
        ...

    @property
    def shape(self) -> Shape:
        """Its shape."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        ...

    @property
    def pieces(self) -> Callable[[], Iterator[np.ndarray]]:
        """Gives the values, in memory order."""
        ...


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A tensor of a file that is read when it is needed.

    Attributes:
      dtype: its dtype.
      shape: its shape.
      read: gives the values; the array may be a read-only view of the file.
    """

    dtype: np.dtype
    shape: Shape
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[np.ndarray]:
        """The values in one piece."""
        yield self.read()


def map_array(path: Path, offset: int, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """``shape`` values at byte ``offset`` of a file, mapped into memory until the last view is
    gone.
    """
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, mode="r", dtype=dtype, offset=offset, shape=shape)


def read_file(path: Path) -> tuple[dict[str, TorchTensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
      CheckpointError: if the file is missing, truncated or not a safetensors file, or tensors share
        bytes.
    """
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if 0 < length <= min(size - 8, MAX_HEADER_BYTES) else b""
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not content.startswith(b"{"):
        if what := describe_other_file(path):
            raise CheckpointError(f"{path} is not a safetensors file: it is {what}")
        if content:
            raise CheckpointError(f"{path} is not a safetensors file: its header cannot be read")
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: its header should end at byte "
            f"{8 + length} of {size}"
        )
    try:
        header = parse_json(path, content)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise TypeError("metadata")
        entries = {name: _entry(path, name, entry) for name, entry in header.items()}
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, _DamagedHeaderError):
            raise
        raise CheckpointError(
            f"{path} is not a safetensors file: its header cannot be read"
        ) from error
    start = 8 + length
    end = start + _check_places(path, entries)
    if size != end:
        raise CheckpointError(
            f"{path} is {'truncated' if size < end else 'damaged'}: {size} bytes, but its header "
            f"describes {end}"
        )
    tensors = {}
    for name, (dtype, shape, begin, _) in entries.items():
        read = functools.partial(_map, path, start + begin, dtype, shape)
        tensors[name] = TorchTensor(dtype, shape, read)
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def read_folder(folder: Path) -> dict[str, TorchTensor]:
    """The tensors of all safetensors files of a folder: those of its ``*.index.json``, else all
    that are there.

    Raises:
      CheckpointError: if there is none, a shard is missing or damaged, or two hold a tensor of one
        name.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        files = []
        for index in indices:
            files += [folder / name for name in sorted(set(_weight_map(index).values()))]
    else:
        files = _numbered(sorted(folder.glob("*.safetensors")))
    if not files:
        others = sorted(file.name for file in folder.glob("*.bin")) + [
            file.name for file in sorted(folder.glob("*.gguf"))
        ]
        held = f"; it has {', '.join(others[:3])}, which is not read" if others else ""
        raise CheckpointError(
            f"{folder} has no .safetensors files{held}: "
            f"`{download_command(folder, ['*.safetensors'])}`"
        )
    if missing := [file.name for file in files if not file.is_file()]:
        names = ", ".join([*missing[:8], *(["..."] if len(missing) > 8 else [])])
        wanted = missing if len(missing) <= 8 else ["*.safetensors"]
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} shards: {names}. Was the download "
            f"interrupted? `{download_command(folder, wanted)}`"
        )
    tensors: dict[str, TorchTensor] = {}
    for file in files:
        shard, _ = read_file(file)
        if twice := tensors.keys() & shard.keys():
            raise CheckpointError(
                f"{file}: {sorted(twice)[0]} and {len(twice) - 1} others are in another file too: "
                f"keep one variant in {folder}"
            )
        tensors |= shard
    return tensors


def unread_files(folder: Path) -> list[str]:
    """The safetensors files of a folder that its index does not name; none where there is no
    index, and all are read.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        return []
    named = {name for index in indices for name in _weight_map(index).values()}
    return sorted(file.name for file in folder.glob("*.safetensors") if file.name not in named)


def write_folder(
    folder: Path,
    stem: str,
    tensors: Mapping[str, WritableTensor],
    max_shard_bytes: int,
    progress: Progress = lambda written: None,
    metadata: Mapping[str, str] = TORCH_METADATA,
) -> None:
    """Write tensors as ``stem.safetensors``, or as numbered shards with an index where one file
    would exceed ``max_shard_bytes``.

    Tensors are read and written one at a time.
    """
    folder.mkdir(parents=True)
    shards: list[dict[str, WritableTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    if len(shards) == 1:
        write_file(folder / f"{stem}.safetensors", shards[0], progress, metadata)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard, progress, metadata)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def write_file(
    path: Path,
    tensors: Mapping[str, WritableTensor],
    progress: Progress = lambda written: None,
    metadata: Mapping[str, str] = TORCH_METADATA,
) -> None:
    """Write one safetensors file; tensors are read and written one piece at a time.

    Raises:
      CheckpointError: if the file cannot be written.
    """
    # Widest dtypes first, so that every tensor starts at a multiple of its item size.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                for piece in tensors[name].pieces():
                    values = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
                    file.write(values.data)
                    progress(values.nbytes)
                    del piece, values
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error


def _numbered(files: list[Path]) -> list[Path]:
    """Files, and those that are not there of what are parts of several by their names."""
    wanted = set(files)
    for file in files:
        if match := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.safetensors", file.name):
            stem, count = match.groups()
            for number in range(1, min(int(count), MAX_SHARDS) + 1):
                wanted.add(file.with_name(f"{stem}-{number:05d}-of-{count}.safetensors"))
    return sorted(wanted)


class _DamagedHeaderError(CheckpointError):
    """A header that can be read and says what cannot be."""


def _entry(path: Path, name: str, entry: Mapping[str, Any]) -> tuple[np.dtype, Shape, int, int]:
    """The dtype, the shape and the first and last byte of a tensor."""
    shape = tuple(entry["shape"])
    begin, stop = entry["data_offsets"]
    if not all(type(size) is int and 0 <= size < MAX_SIZE for size in (*shape, begin, stop)):
        raise TypeError(name)
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise _DamagedHeaderError(
            f"{path}: {name} has dtype {entry['dtype']}; known are {', '.join(DTYPES)}"
        )
    if len(shape) > MAX_AXES:
        raise _DamagedHeaderError(f"{path}: the header is damaged: {name} has {len(shape)} axes")
    if stop - begin != math.prod(shape) * dtype.itemsize:
        raise _DamagedHeaderError(
            f"{path}: the header is damaged: {name} of {list(shape)} {entry['dtype']} cannot have "
            f"{stop - begin} bytes"
        )
    return dtype, shape, begin, stop


def _check_places(path: Path, entries: Mapping[str, tuple[np.dtype, Shape, int, int]]) -> int:
    """Where the last tensor ends; tensors follow one another without gaps or common bytes."""
    end = 0
    for name, (_, _, begin, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise _DamagedHeaderError(
                f"{path}: the header is damaged: {name} begins at byte {begin}, not {end}"
            )
        end = stop
    return end


def _map(path: Path, offset: int, dtype: np.dtype, shape: Shape) -> np.ndarray:
    return map_array(path, offset, dtype, shape)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or any(
        os.path.basename(str(name)) != name or name in ("", ".", "..")
        for name in weight_map.values()
    ):
        raise CheckpointError(f"{index} is damaged: its weight_map does not name files beside it")
    return weight_map
