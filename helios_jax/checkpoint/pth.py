"""Reading ``.pth`` files without PyTorch and without running anything they contain.

``torch.save`` writes an uncompressed zip archive: ``*/data.pkl``, a pickle of the objects, and
``*/data/<key>``, the bytes of each storage. The pickle is read as data
(:mod:`helios_jax.checkpoint.pickles`): the few functions that rebuild a tensor are replaced by
ours, and whatever else it names ends the reading.
"""

import dataclasses
import math
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.other_files import check_is_file, describe_other_file
from helios_jax.checkpoint.pickles import (
    MAX_BYTES,
    Functions,
    Global,
    PickleError,
    RefusedError,
    read_pickle,
)
from helios_jax.checkpoint.safetensors_files import TorchTensor, map_array

MAX_REPEATED = 2**24
"""Elements that a tensor may have when it has more than its storage, by strides of zero."""

MAX_DIMENSIONS = 32


def read_pth(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a state dictionary written by ``torch.save``, by name; values are mapped into
    memory when read.

    Raises:
      CheckpointError: if the file is missing, truncated, compressed or of PyTorch's old format, or
        if its pickle is anything but a dictionary of tensors (naming what it asks for).
    """
    state = read_dictionary(path)
    if not all(isinstance(value, TorchTensor) for value in state.values()):
        raise CheckpointError(_NOT_A_DICTIONARY.format(path))
    return state


def read_dictionary(path: Path, ignored: Collection[tuple[str, str]] = ()) -> dict[str, Any]:
    """What ``torch.save`` wrote of a dictionary: tensors as :class:`TorchTensor`, beside numbers,
    strings and collections.

    Args:
      path: the file.
      ignored: functions and classes, by module and name, that its pickle may use as well; what
        they would make is left out.

    Raises:
      CheckpointError: as :func:`read_pth`.
    """
    state = load_pickle(path, {}, lambda name: name in ignored)
    if not isinstance(state, dict):
        raise CheckpointError(_NOT_A_DICTIONARY.format(path))
    return {
        str(name): value.tensor() if isinstance(value, View) else value
        for name, value in state.items()
    }


def load_pickle(
    path: Path, functions: Functions, is_class: Callable[[Global], bool] = lambda name: False
) -> Any:
    """What the pickle of an archive describes, tensors as :class:`View`.

    Args:
      path: the archive.
      functions: that its pickle may call, beside those that rebuild tensors.
      is_class: see :func:`~helios_jax.checkpoint.pickles.read_pickle`.

    Raises:
      CheckpointError: as :func:`read_pth`.
    """
    check_is_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(
                    f"{path} is a zip archive without a data.pkl: not a file of torch.save"
                )
            root = pickles[0].removesuffix("data.pkl")
            if entries[pickles[0]].file_size > MAX_BYTES:
                raise CheckpointError(f"{path}: its data.pkl has more than {MAX_BYTES} bytes")
            order = entries.get(f"{root}byteorder")
            if order and (order.file_size != 6 or archive.read(order) != b"little"):
                raise CheckpointError(
                    f"{path} was written on a big-endian machine: save it again on another"
                )
            content = archive.read(pickles[0])
        storages = Storages(path, f"{root}data/", entries)
        return read_pickle(
            content,
            {**functions, **FUNCTIONS},
            lambda name: name in STORAGE_DTYPES or is_class(name),
            storages.find,
        )
    except CheckpointError:
        raise
    except RefusedError as error:
        raise CheckpointError(
            f"{path} asks to run {error}, which is not part of a dictionary of tensors: refused. "
            "If you trust the file, load it with torch and save its state dictionary as "
            "safetensors"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is {_no_archive(path)}") from error
    except PickleError as error:
        raise CheckpointError(f"{path} is damaged: its pickle cannot be read ({error})") from error
    except Exception as error:  # a damaged archive may fail in any way
        raise CheckpointError(
            f"{path} is damaged: it cannot be read ({type(error).__name__}: {error})"
        ) from error


@dataclasses.dataclass(frozen=True)
class Storage:
    """The bytes that tensors are views of.

    Attributes:
      path: the archive.
      offset: byte of the archive at which it begins.
      dtype: of its elements.
      size: how many elements.
    """

    path: Path
    offset: int
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: part of a storage, with strides in elements."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape

    def tensor(self) -> TorchTensor:
        """The tensor, which is read when it is needed.

        Raises:
          CheckpointError: if it is not within its storage.
        """
        storage = self.storage
        itemsize = storage.dtype.itemsize
        count = math.prod(self.shape)
        span = 0
        if count:
            span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        if min((self.offset, *self.shape, *self.strides)) < 0 or self.offset + span > storage.size:
            raise CheckpointError(f"{storage.path} is damaged: a tensor reaches beyond its storage")
        if count > max(storage.size, MAX_REPEATED) or len(self.shape) > MAX_DIMENSIONS:
            raise CheckpointError(
                f"{storage.path} is damaged: a tensor of {len(self.shape)} dimensions and {count} "
                f"elements in a storage of {storage.size}"
            )
        offset = storage.offset + self.offset * itemsize
        strides = [
            stride * itemsize if size > 1 else 0 for size, stride in zip(self.shape, self.strides)
        ]

        def read() -> np.ndarray:
            flat = map_array(storage.path, offset, storage.dtype, (span,))
            return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)

        return TorchTensor(storage.dtype, self.shape, read)


class Storages:
    """The storages of an archive."""

    def __init__(self, path: Path, folder: str, entries: Mapping[str, zipfile.ZipInfo]):
        self._path = path
        self._folder = folder
        self._entries = entries

    def find(self, identifier: Any) -> Storage:
        """The storage that a persistent identifier names: ``("storage", class, key, device,
        size)``.
        """
        if type(identifier) is not tuple or len(identifier) != 5 or identifier[0] != "storage":
            raise PickleError("an object outside of the pickle that is no storage")
        _, kind, key, _, size = identifier
        if type(kind) is not Global or kind not in STORAGE_DTYPES:
            raise PickleError("a storage of an unknown dtype")
        if type(key) is not str or type(size) is not int or size < 0:
            raise PickleError("a storage without a name or a size")
        dtype = STORAGE_DTYPES[kind]
        info = self._entries[f"{self._folder}{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{self._path} is compressed, so it cannot be mapped into memory: save it again "
                "with torch.save"
            )
        nbytes = size * dtype.itemsize
        if info.file_size < nbytes:
            raise CheckpointError(
                f"{self._path} is damaged: storage {key[:80]} has {info.file_size} bytes, not "
                f"{nbytes}"
            )
        offset = _data_offset(self._path, info)
        if offset + nbytes > self._path.stat().st_size:
            raise CheckpointError(f"{self._path} is damaged: storage {key[:80]} is not in it")
        return Storage(self._path, offset, dtype, size)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    """``torch._utils._rebuild_tensor_v2``."""
    if type(storage) is not Storage:
        raise PickleError("a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise PickleError("a tensor whose shape and strides do not fit")
    if not all(type(number) is int for number in (offset, *shape, *strides)):
        raise PickleError("a tensor whose shape, strides or offset are no integers")
    return View(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """``torch._utils._rebuild_parameter``: a parameter is its tensor."""
    return tensor


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    """``collections.OrderedDict`` without arguments, which is filled later."""
    if arguments:
        raise PickleError("an OrderedDict with arguments")
    return {}


FUNCTIONS: Functions = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}

STORAGE_DTYPES = {
    Global("torch", "DoubleStorage"): np.dtype(np.float64),
    Global("torch", "FloatStorage"): np.dtype(np.float32),
    Global("torch", "HalfStorage"): np.dtype(np.float16),
    Global("torch", "BFloat16Storage"): np.dtype(ml_dtypes.bfloat16),
    Global("torch", "LongStorage"): np.dtype(np.int64),
    Global("torch", "IntStorage"): np.dtype(np.int32),
    Global("torch", "ByteStorage"): np.dtype(np.uint8),
    Global("torch", "BoolStorage"): np.dtype(np.bool_),
}

_NOT_A_DICTIONARY = (
    "{} does not hold a dictionary of tensors: save model.state_dict() rather than the model"
)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes start: after its local header, whose name and extra field have lengths
    of their own.
    """
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _no_archive(path: Path) -> str:
    """What a file is that is not a whole zip archive."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        return "truncated: the end of the zip archive is missing"
    if start[:1] != b"\x80" and (what := describe_other_file(path)):
        return f"not a zip archive, as torch.save writes: it is {what}"
    return (
        "not a zip archive: damaged, or written by PyTorch before 1.6; load it with torch and save "
        "it again"
    )
