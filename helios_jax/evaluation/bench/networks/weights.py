"""Reading the weights of HeliosBench's networks from the files in which they are published."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from helios_jax.checkpoint.directory import unflatten
from helios_jax.checkpoint.errors import check_tensors
from helios_jax.checkpoint.layout import Slot
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_file, read_folder
from helios_jax.checkpoint.torchscript import read_archive
from helios_jax.types import DTypeLike, Params

Tensors = Mapping[str, TorchTensor]


def read_tensors(path: str | os.PathLike, key: str | None = None) -> dict[str, TorchTensor]:
    """The tensors of a file, or of a folder with safetensors files, by name.

    Args:
      path: ``.safetensors``, a file of ``torch.save``, a TorchScript archive, or a folder. Nothing
        that a file contains is run.
      key: the entry of a ``torch.save`` dictionary that holds the tensors, if it is nested.

    Raises:
      CheckpointError: if it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".safetensors":
        return read_file(path)[0]
    return read_archive(path, key)


def build_params(
    what: str | os.PathLike,
    slots: list[Slot],
    tensors: Tensors,
    prefix: str = "",
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """The parameter tree of a name table.

    Args:
      what: the file, for messages.
      slots: the table.
      tensors: by name; those without the prefix are other networks' and not looked at.
      prefix: what stands before the table's names.
      dtype: of the parameters.

    Raises:
      CheckpointError: naming every missing, unexpected and misshaped tensor.
    """
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    expected = {slot.name: slot.shape for slot in slots}
    check_tensors(str(what), expected, {name: tensor.shape for name, tensor in found.items()})
    leaves: dict[str, np.ndarray] = {}
    for slot in slots:
        if slot.path not in leaves:
            leaves[slot.path] = np.empty(slot.leaf_shape, jnp.dtype(dtype))
        leaves[slot.path][slot.index] = slot.to_jax(found[slot.name].read())
    return unflatten({path: jnp.asarray(leaf) for path, leaf in leaves.items()})
