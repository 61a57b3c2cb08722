"""Our checkpoint directory: written whole or not at all, checked when read.

::

    config.json                      format, version, shared folders, the sections of HeliosConfig
    tokenizer/tokenizer.json         and whatever other files the tokenizer came with
    transformer/params.safetensors   the leaves of each component by path
    vae/params.safetensors
    text_encoder/params.safetensors
    torch.json                       of a converted checkpoint: name and dtype of each torch tensor,
                                     for the way back
    digests.json                     size and sha256 of every other file, written last

Checkpoints that have a component in common name it: with ``"shared": {"vae": "../nano"}`` in
``config.json`` the files of ``vae/`` are those of the checkpoint beside it, and ``digests.json``
says what they must be.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from helios_jax.checkpoint.component import StoredLeaf, open_component, write_component
from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.files import (
    Digest,
    FileTable,
    new_directory,
    raise_problems,
    read_digests,
    read_json,
    write_digests,
    write_json,
)
from helios_jax.checkpoint.finite import is_finite
from helios_jax.checkpoint.layout import Index, Slot, leaves
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.config import ConfigError, HeliosConfig, from_dict, to_dict
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.types import Params

FORMAT = "helios-jax"
VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 has zarr arrays in place of safetensors files, and shares by symbolic links."""

TOKENIZER = "tokenizer"
FOLDERS = (*COMPONENTS, TOKENIZER)
"""What a checkpoint can share with another."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint directory.

    Attributes:
      config: what its ``config.json`` says.
      files: its files, shared ones included.
      identities: see :func:`component_digest`.
    """

    config: HeliosConfig
    files: FileTable
    identities: Mapping[str, str]


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read ``digests.json`` and ``config.json`` of a checkpoint directory.

    Raises:
      CheckpointError: if there is no such checkpoint, it is unfinished, or its ``config.json`` is
        damaged or of another format.
    """
    root = Path(path)
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a directory: no checkpoint there")
    if (root / "model_index.json").is_file():
        raise CheckpointError(
            f"{root} is a Diffusers folder: convert it first with "
            f"convert_torch_weights.py --source {root} --out DIR"
        )
    digests, identities = read_digests(root)
    file = root / "config.json"
    if file.name not in digests:
        raise CheckpointError(f"{root} has no config.json: not a helios-jax checkpoint")
    FileTable(root, digests).check([file.name])
    values = read_json(file)
    if values.pop("format", None) != FORMAT:
        raise CheckpointError(
            f'{file} does not say "format": "{FORMAT}": not a helios-jax checkpoint'
        )
    if (version := values.pop("version", None)) not in READABLE_VERSIONS:
        raise CheckpointError(
            f"{root} has format version {version}; this helios-jax reads version "
            f"{' and '.join(map(str, READABLE_VERSIONS))}: convert it again"
        )
    shared = _checked_shared(file, values.pop("shared", {}))
    for name, section in values.items():
        if not isinstance(section, dict):
            raise CheckpointError(f"{file}: {name} is not a section, a JSON dictionary")
    try:
        config = from_dict(HeliosConfig, values)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return Checkpoint(config, FileTable(root, digests, shared), identities)


def load_config(path: str | os.PathLike) -> HeliosConfig:
    """The configuration of a checkpoint directory.

    Raises:
      CheckpointError: as :func:`open_checkpoint`.
    """
    return open_checkpoint(path).config


def load_tokenizer(path: str | os.PathLike, verify: bool = True) -> Tokenizer:
    """The tokenizer of a checkpoint directory.

    Args:
      path: the checkpoint directory.
      verify: check its files against their digests.

    Raises:
      CheckpointError: if the checkpoint has none, or a file is missing, truncated or altered.
      TokenizerError: if it is not the tokenizer of a T5.
    """
    files = open_checkpoint(path).files
    file = f"{TOKENIZER}/tokenizer.json"
    if file not in files.digests:
        raise CheckpointError(f"{files.root} has no {file} that its digests.json lists")
    if verify:
        files.check(files.under(TOKENIZER))
    else:
        files.check_sizes(files.under(TOKENIZER))
    return Tokenizer.from_file(files.path(file))


def load_params(
    path: str | os.PathLike,
    component: str,
    dtypes: Callable[[str], Any] | None = None,
    verify: bool = True,
    sharding: jax.sharding.Sharding | Callable[[str], jax.sharding.Sharding | None] | None = None,
    progress: Callable[[int], Any] = lambda size: None,
) -> Params:
    """Read a component's parameters, leaf by leaf: the host holds one leaf at a time beside what is
    already placed.

    Args:
      path: the checkpoint directory.
      component: ``"transformer"``, ``"vae"`` or ``"text_encoder"``.
      dtypes: dtype of each leaf given its path (``"blocks/attn1/qkv/kernel"``), converted while
        reading; None keeps what is stored.
      verify: check each leaf's files against their digests before they are used, and refuse NaN
        and infinite values. Sizes are checked in any case.
      sharding: where to place the leaves: one sharding for all or a function of the leaf's path;
        each device reads its own part. None: the default device.
      progress: told the bytes of each leaf that is in place.

    Returns:
      The nested dictionary of arrays.

    Raises:
      CheckpointError: if the component is absent, or a file is missing, truncated or altered
        (naming it), or leaves hold values that are not finite (naming them).
    """
    checkpoint = open_checkpoint(path)
    files = checkpoint.files
    slots = _slots(checkpoint.config, component)
    try:
        stored = open_leaves(files, component, slots)
    except CheckpointError:
        if verify:  # that a file was altered explains more than what its header then says
            files.check(files.under(component))
        raise
    loaded = {}
    broken = []
    with ThreadPoolExecutor() as threads:
        names = files.under(component) if verify else []
        checks = {name: threads.submit(files.alteration, name) for name in names}
        try:
            for leaf_path, leaf in stored.items():
                if verify:
                    found = [checks[name].result() for name in leaf.files]
                    raise_problems([problem for problem in found if problem])
                dtype = leaf.dtype if dtypes is None else np.dtype(dtypes(leaf_path))
                place = sharding(leaf_path) if callable(sharding) else sharding
                array, whole = _place(leaf, dtype, place, check_finite=verify)
                loaded[leaf_path] = array
                broken += [] if whole else [leaf_path]
                progress(loaded[leaf_path].nbytes)
        finally:
            threads.shutdown(cancel_futures=True)
    if broken:
        raise CheckpointError(
            f"{component} of {files.root} has NaN or infinite values in {', '.join(broken)}: its "
            "training broke down, or its conversion; --noverify (verify=False) loads it all the "
            "same"
        )
    return unflatten_dict(loaded, sep="/")


def open_leaves(files: FileTable, component: str, slots: list[Slot]) -> dict[str, StoredLeaf]:
    """The leaves of a component on disk, in the order of its name table.

    Raises:
      CheckpointError: naming every leaf that is missing, unexpected or misshaped.
    """
    stored = open_component(files, component)
    expected = {path: slot.leaf_shape for path, slot in leaves(slots).items()}
    found = {path: leaf.shape for path, leaf in stored.items()}
    check_tensors(f"{component} of {files.root}", expected, found)
    return {path: stored[path] for path in expected}


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
    slots = {name: _slots(config, name) for name in components}
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


def component_digest(path: str | os.PathLike, component: str) -> str:
    """Sixteen hexadecimal digits that tell a component's weights and configuration from others.

    They follow from the digests of its files. A checkpoint that was rewritten in another layout
    keeps those that it had, so that data it has encoded are still known as its own.

    Raises:
      CheckpointError: as :func:`open_checkpoint`.
    """
    checkpoint = open_checkpoint(path)
    if component in checkpoint.identities:
        return checkpoint.identities[component]
    files = checkpoint.files
    digests = {name: files.digests[name].sha256 for name in files.under(component)}
    described = [to_dict(getattr(checkpoint.config, component)), digests]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


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


def _place(
    leaf: StoredLeaf,
    dtype: np.dtype,
    sharding: jax.sharding.Sharding | None,
    check_finite: bool,
) -> tuple[jax.Array, bool]:
    """A leaf on the devices, and whether all its values are finite (True if not checked).

    Each part is copied out of the file, so that no array of JAX is a view of it.
    """
    finite = []

    def read(index: Index) -> np.ndarray:
        values = np.array(leaf.read(index), dtype)
        finite.append(not check_finite or is_finite(values))
        return values

    if sharding is None:
        return jnp.asarray(read(())), all(finite)
    array = jax.make_array_from_callback(leaf.shape, sharding, lambda index: read(index or ()))
    return array, all(finite)


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


def _checked_shared(file: Path, shared: Any) -> dict[str, str]:
    """The places of shared folders, if they are such."""
    if not isinstance(shared, dict) or not all(
        name in FOLDERS and isinstance(place, str) and not os.path.isabs(place)
        for name, place in shared.items()
    ):
        raise CheckpointError(
            f"{file}: shared must give for any of {', '.join(FOLDERS)} the folder of a checkpoint, "
            f"relative to this one, not {shared!r}"
        )
    return shared


def _slots(config: HeliosConfig, component: str) -> list[Slot]:
    if component not in COMPONENTS:
        raise CheckpointError(f"unknown component {component!r}; there are {', '.join(COMPONENTS)}")
    return component_slots(config, component)
