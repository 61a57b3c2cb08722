"""The tensors of a TorchScript archive, in which CLIP was published; its code is not looked at.

``torch.jit.save`` writes the archive of ``torch.save`` with a module in its pickle: objects of
classes that the archive's own code defines, whose attributes are tensors, numbers and further
modules. Every such class is read as a bag of attributes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.pickles import Functions, Global, PickledObject
from helios_jax.checkpoint.pth import View, load_pickle
from helios_jax.checkpoint.safetensors_files import TorchTensor

NESTED = ("state_dict", "model")
"""Entries of a dictionary under which training scripts put the tensors."""


def read_archive(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a module of ``torch.jit.save``, or of a dictionary of ``torch.save``, by name.

    Args:
      path: the archive. A dictionary may hold them itself or under one of :data:`NESTED`; what else
        is in it is left out.

    Raises:
      CheckpointError: as :func:`~helios_jax.checkpoint.pth.read_pth`, or if there are no tensors.
    """
    content = load_pickle(path, _FUNCTIONS, _is_module)
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, PickledObject):
        found = dict(_tensors(path, content, "", ()))
    elif isinstance(content, Mapping):
        items = ((str(name), value) for name, value in content.items())
        found = {name: value.tensor() for name, value in items if isinstance(value, View)}
    else:
        found = {}
    if not found:
        raise CheckpointError(f"{path} holds no tensors by name")
    return found


def _is_module(name: Global) -> bool:
    """Whether a class is one that the archive's own code defines."""
    return name.module.split(".")[0] == "__torch__"


def _first(value: Any, *_: Any) -> Any:
    return value


_FUNCTIONS: Functions = {
    ("torch.jit._pickle", name): _first
    for name in (
        "build_intlist",
        "build_doublelist",
        "build_boollist",
        "build_tensorlist",
        "restore_type_tag",
    )
}


def _tensors(
    path: Path, module: PickledObject, prefix: str, parents: tuple[int, ...]
) -> Iterator[tuple[str, TorchTensor]]:
    if id(module) in parents:
        raise CheckpointError(f"{path} is damaged: its module {prefix} contains itself")
    attributes = module.state if isinstance(module.state, dict) else {}
    for name, value in attributes.items():
        if isinstance(value, View):
            yield f"{prefix}{name}", value.tensor()
        elif isinstance(value, PickledObject):
            yield from _tensors(path, value, f"{prefix}{name}.", (*parents, id(module)))
