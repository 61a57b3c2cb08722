"""Reading ``.pth`` files without PyTorch and without running anything they contain.

``torch.save`` writes an uncompressed zip archive: ``*/data.pkl``, a pickle of the objects, and
``*/data/<key>``, the bytes of each storage. A pickle is a program that may call anything; here it
may call the few functions that rebuild a tensor, replaced by inert ones, and whatever else it names
ends the reading.
"""

import dataclasses
import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.safetensors_files import TorchTensor, map_array


def read_pth(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a state dictionary written by ``torch.save``, by name; values are mapped into
    memory when read.

    Raises:
      CheckpointError: if the file is missing, truncated, compressed or of PyTorch's old format, or
        if its pickle is anything but a dictionary of tensors (naming what it asks for).
    """
    state = read_dictionary(path)
    if not all(isinstance(value, TorchTensor) for value in state.values()):
        raise CheckpointError(
            f"{path} does not hold a dictionary of tensors: save model.state_dict() rather than the model"
        )
    return state


def read_dictionary(
    path: Path, inert: Mapping[tuple[str, str], Any] | None = None
) -> dict[str, Any]:
    """What ``torch.save`` wrote of a dictionary: tensors as :class:`TorchTensor`, beside numbers,
    strings and collections.

    Args:
      path: the file.
      inert: what stands for other functions and classes that its pickle may name, by (module,
        name); nothing else is called.

    Raises:
      CheckpointError: as :func:`read_pth`.
    """
    state = load_pickle(path, inert or {})
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path} does not hold a dictionary of tensors: save model.state_dict() rather than the model"
        )
    return {
        str(name): value.tensor() if isinstance(value, View) else value
        for name, value in state.items()
    }


def load_pickle(
    path: Path,
    inert: Mapping[tuple[str, str], Any],
    unpickler: "type[Unpickler] | None" = None,
) -> Any:
    """What the pickle of an archive builds, tensors as :class:`View`.

    Args:
      path: the archive.
      inert: as :func:`read_dictionary`.
      unpickler: reads the pickle; by default :class:`Unpickler`.

    Raises:
      CheckpointError: as :func:`read_pth`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(
                    f"{path} is a zip archive without a data.pkl: not a file of torch.save"
                )
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
                raise CheckpointError(
                    f"{path} was written on a big-endian machine: save it again on another"
                )
            build = unpickler or Unpickler
            return build(path, root, entries, archive.read(pickles[0]), inert).load()
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is {_what_it_is_instead(path)}") from error
    except Exception as error:  # a damaged pickle may fail in any way
        raise CheckpointError(
            f"{path} is damaged: its pickle cannot be read ({type(error).__name__}: {error})"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The bytes that tensors are views of."""

    path: Path
    offset: int
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: part of a storage, with strides in elements."""

    storage: _Storage
    offset: int
    shape: Shape
    strides: Shape

    def tensor(self) -> TorchTensor:
        storage, itemsize = self.storage, self.storage.dtype.itemsize
        span = (
            1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
            if math.prod(self.shape)
            else 0
        )
        if min((self.offset, *self.shape, *self.strides)) < 0 or self.offset + span > storage.size:
            raise CheckpointError(f"{storage.path} is damaged: a tensor reaches beyond its storage")

        def read() -> np.ndarray:
            flat = map_array(
                storage.path, storage.offset + self.offset * itemsize, storage.dtype, (span,)
            )
            return np.lib.stride_tricks.as_strided(
                flat, self.shape, [stride * itemsize for stride in self.strides], writeable=False
            )

        return TorchTensor(storage.dtype, self.shape, read)


def _rebuild_tensor(storage: Any, offset: int, shape: Shape, strides: Shape, *_: Any) -> View:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


_STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGE_DTYPES.items()},
}


class Unpickler(pickle.Unpickler):
    """Knows dictionaries, numbers, strings and tensors; refuses the rest."""

    def __init__(
        self,
        path: Path,
        root: str,
        entries: Mapping[str, zipfile.ZipInfo],
        content: bytes,
        inert: Mapping,
    ):
        super().__init__(io.BytesIO(content))
        self._path, self._root, self._entries, self._known = (
            path,
            root,
            entries,
            {**inert, **_KNOWN},
        )

    def find_class(self, module: str, name: str) -> Callable | np.dtype:
        if (module, name) not in self._known:
            raise CheckpointError(
                f"{self._path} asks to run {module}.{name}, which is not part of a dictionary of tensors: refused. "
                "If you trust the file, load it with torch and save its state dictionary as safetensors"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"unknown object {kind!r}")
        info = self._entries[f"{self._root}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{self._path} is compressed, so it cannot be mapped into memory: save it again with torch.save"
            )
        if info.file_size < int(size) * dtype.itemsize:
            raise CheckpointError(
                f"{self._path} is damaged: storage {key} has {info.file_size} bytes, not {int(size) * dtype.itemsize}"
            )
        return _Storage(self._path, _data_offset(self._path, info), dtype, int(size))


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes start: after its local header, whose name and extra field have lengths
    of their own.
    """
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _what_it_is_instead(path: Path) -> str:
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            return "truncated: the end of the zip archive is missing"
    return "not a zip archive: damaged, or written by PyTorch before 1.6; load it with torch and save it again"
