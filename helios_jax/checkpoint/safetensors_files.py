"""Reading and writing safetensors files tensor by tensor, and the folders of shards that Diffusers
and Transformers save.

A file is eight bytes (the header's length), a JSON header (dtype, shape and place of each tensor)
and the tensors, end to end. Tensors are mapped into memory one at a time, so that no more than the
one in use counts.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import Progress, read_json, write_json
from helios_jax.checkpoint.layout import Shape

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


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A tensor of a PyTorch file that is read when it is needed.

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
      CheckpointError: if the file is missing, truncated or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if size < 8 or start > size:
                raise CheckpointError(
                    f"{path} is truncated or not a safetensors file: its header should end at byte {start} of {size}"
                )
            header = json.loads(file.read(start - 8))
        metadata = header.pop("__metadata__", {})
        tensors, end = {}, start
        for name, entry in header.items():
            dtype, shape, (begin, stop) = (
                DTYPES.get(entry["dtype"]),
                tuple(entry["shape"]),
                entry["data_offsets"],
            )
            if dtype is None:
                raise CheckpointError(
                    f"{path}: {name} has dtype {entry['dtype']}; known are {', '.join(DTYPES)}"
                )
            if stop - begin != math.prod(shape) * dtype.itemsize or begin < 0:
                raise CheckpointError(
                    f"{path}: the header is damaged: {name} of {list(shape)} {entry['dtype']} cannot have {stop - begin} bytes"
                )
            tensors[name] = TorchTensor(dtype, shape, _reader(path, start + begin, dtype, shape))
            end = max(end, start + stop)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: its header cannot be read"
        ) from error
    if size != end:
        raise CheckpointError(
            f"{path} is {'truncated' if size < end else 'damaged'}: {size} bytes, but its header describes {end}"
        )
    return tensors, metadata


def read_folder(folder: Path) -> dict[str, TorchTensor]:
    """The tensors of all safetensors files of a folder: those of its ``*.index.json``, else all
    that are there.

    Raises:
      CheckpointError: if there is none, a shard is missing or damaged, or two hold a tensor of one
        name.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        files = [
            folder / name for index in indices for name in sorted(set(_weight_map(index).values()))
        ]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no .safetensors files")
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} shards: {', '.join(missing)}. Was the download interrupted?"
        )
    tensors: dict[str, TorchTensor] = {}
    for file in files:
        shard, _ = read_file(file)
        if twice := tensors.keys() & shard.keys():
            raise CheckpointError(
                f"{file}: {sorted(twice)[0]} and {len(twice) - 1} others are in another file too: keep one variant in {folder}"
            )
        tensors |= shard
    return tensors


def write_folder(
    folder: Path,
    stem: str,
    tensors: Mapping[str, TorchTensor],
    max_shard_bytes: int,
    progress: Progress = lambda written: None,
) -> None:
    """Write tensors as ``stem.safetensors``, or as numbered shards with an index where one file
    would exceed ``max_shard_bytes``.

    Tensors are read and written one at a time.
    """
    folder.mkdir(parents=True)
    shards: list[dict[str, TorchTensor]] = [{}]
    for name, tensor in tensors.items():
        if (
            shards[-1]
            and sum(held.nbytes for held in shards[-1].values()) + tensor.nbytes > max_shard_bytes
        ):
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        write_file(folder / f"{stem}.safetensors", shards[0], progress)
        return
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards):
        write_file(folder / name, shard, progress)
    weight_map = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def write_file(
    path: Path, tensors: Mapping[str, TorchTensor], progress: Progress = lambda written: None
) -> None:
    """Write one safetensors file; tensors are read and written one at a time."""
    # Widest dtypes first, so that every tensor starts at a multiple of its item size.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (begin, stop) in zip(order, _offsets(tensors[name].nbytes for name in order)):
        header[name] = {
            "dtype": DTYPE_NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name].read()).reshape(-1).view(np.uint8).data)
            progress(tensors[name].nbytes)


def _offsets(sizes: Iterator[int]) -> Iterator[tuple[int, int]]:
    end = 0
    for size in sizes:
        yield end, end + size
        end += size


def _reader(path: Path, offset: int, dtype: np.dtype, shape: Shape) -> Callable[[], np.ndarray]:
    return lambda: map_array(path, offset, dtype, shape)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or any(
        os.path.basename(str(name)) != name for name in weight_map.values()
    ):
        raise CheckpointError(f"{index} is damaged: its weight_map does not name files beside it")
    return weight_map
