"""Writing a checkpoint directory from memory, or from another one."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint.component import StoredLeaf, write_component
from helios_jax.checkpoint.directory import (
    FOLDERS,
    FORMAT,
    TOKENIZER,
    VERSION,
    component_digest,
    open_checkpoint,
    open_leaves,
)
from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.files import (
    Digest,
    FileTable,
    new_directory,
    read_digests,
    write_digests,
    write_json,
)
from helios_jax.checkpoint.layout import Slot, leaves
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.config import HeliosConfig, to_dict
from helios_jax.types import Params


def save(
    path: str | os.PathLike,
    config: HeliosConfig,
    components: Mapping[str, Params],
    tokenizer: Any = None,
    overwrite: bool = False,
) -> None:
    """Write parameters that are in memory as a checkpoint directory.

    Args:
      path: the directory to make; it appears when it is complete.
      config: the configuration whose geometry the parameters have.
      components: parameter trees by component, any of ``"transformer"``, ``"vae"``,
        ``"text_encoder"``.
      tokenizer: a ``tokenizers.Tokenizer``, the path of a ``tokenizer.json``, or the folder of one;
        None leaves it out.
      overwrite: replace ``path`` if it exists.

    Raises:
      CheckpointError: if a tree does not have the leaves its configuration asks for, or ``path``
        exists.
    """
    slots = {name: component_slots(config, name) for name in components}
    flat: dict[str, dict[str, Any]] = {}
    for name, tree in components.items():
        flat[name] = flatten_dict(tree, sep="/")
    for name, tree in flat.items():
        expected = {leaf: slot.leaf_shape for leaf, slot in leaves(slots[name]).items()}
        found = {leaf: tuple(array.shape) for leaf, array in tree.items()}
        check_tensors(f"the {name} tree", expected, found)
    with new_directory(path, overwrite) as root:
        write_config(root, config)
        if tokenizer is not None:
            write_tokenizer(root, tokenizer)
        for name, tree in flat.items():
            dtypes = {leaf: np.dtype(array.dtype) for leaf, array in tree.items()}

            def read(slot: Slot, tree: Mapping[str, Any] = tree) -> np.ndarray:
                return np.asarray(tree[slot.path][slot.index])

            write_component(root, name, slots[name], dtypes, read)
        write_digests(root)


def rewrite(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    shared_with: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint again in today's layout, its values as they are.

    Args:
      source: a checkpoint directory of any layout; all its digests are checked first.
      out: the directory to make; it appears when it is complete.
      shared_with: another checkpoint directory in today's layout. Components and a tokenizer that
        are equal to its own, byte for byte, are not written: ``config.json`` names their place.
      overwrite: replace ``out`` if it is a checkpoint.

    Raises:
      CheckpointError: if ``source`` is damaged, or ``out`` exists.
    """
    checkpoint = open_checkpoint(source)
    files = checkpoint.files
    files.check()
    other = open_checkpoint(shared_with).files if shared_with is not None else None
    held = [component for component in COMPONENTS if files.under(component)]
    identities = {name: component_digest(source, name) for name in held}
    with new_directory(out, overwrite) as root:
        for component in held:
            slots = component_slots(checkpoint.config, component)
            stored = open_leaves(files, component, slots)
            dtypes = {path: leaf.dtype for path, leaf in stored.items()}

            def read(slot: Slot, stored: Mapping[str, StoredLeaf] = stored) -> np.ndarray:
                return stored[slot.path].read(slot.index)

            write_component(root, component, slots, dtypes, read)
        for name in files.digests:
            if name.startswith(f"{TOKENIZER}/") or ("/" not in name and name != "config.json"):
                (root / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(files.path(name), root / name)
        shared = _leave_out(root, Path(out), other) if other else {}
        write_config(root, checkpoint.config, {name: place for name, (place, _) in shared.items()})
        elsewhere: dict[str, Digest] = {}
        for _, digests in shared.values():
            elsewhere |= digests
        write_digests(root, elsewhere, identities)


def write_config(root: Path, config: HeliosConfig, shared: Mapping[str, str] | None = None) -> None:
    """Write ``config.json``.

    Args:
      root: the directory being made.
      config: the configuration.
      shared: places of what another checkpoint holds, see
        :class:`~helios_jax.checkpoint.files.FileTable`.
    """
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if shared:
        head["shared"] = dict(shared)
    write_json(root / "config.json", head | to_dict(config))


def write_tokenizer(root: Path, tokenizer: Any) -> None:
    """Write ``tokenizer/``: a copy of a ``tokenizer.json`` or of the files beside one in a folder,
    or what a tokenizer object saves.

    Raises:
      CheckpointError: if there is no ``tokenizer.json``.
    """
    target = root / TOKENIZER
    if not isinstance(tokenizer, str | os.PathLike):
        target.mkdir()
        tokenizer.save(str(target / "tokenizer.json"))
        return
    source = Path(tokenizer)
    if not (source if source.is_file() else source / "tokenizer.json").is_file():
        load = f"transformers.AutoTokenizer.from_pretrained({str(source)!r})"
        raise CheckpointError(
            f"{source} has no tokenizer.json; if it has a spiece.model, make one with "
            f"`{load}.save_pretrained({str(source)!r})`"
        )
    target.mkdir()
    if source.is_file():
        shutil.copyfile(source, target / "tokenizer.json")
        return
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, target / file.name)


def _leave_out(
    root: Path, final: Path, other: FileTable
) -> dict[str, tuple[str, dict[str, Digest]]]:
    """Remove the folders of a new checkpoint that ``other`` has, too.

    Returns:
      The place of each and the digests of its files.
    """
    shared = {}
    write_digests(root)
    digests, _ = read_digests(root)
    mine = FileTable(root, digests)
    for folder in FOLDERS:
        own = {name: digests[name] for name in mine.under(folder)}
        if own and own == {name: other.digests[name] for name in other.under(folder)}:
            there = other.path(folder).parent.resolve()
            place = os.path.relpath(there, final.absolute().resolve())
            shared[folder] = (Path(place).as_posix(), own)
            shutil.rmtree(root / folder)
    return shared
