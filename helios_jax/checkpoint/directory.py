"""Our checkpoint directory: written whole or not at all, checked when read.

::

    config.json                  format, version, and the sections of HeliosConfig
    tokenizer/tokenizer.json     and whatever other files the tokenizer came with transformer/ vae/
    text_encoder/   one zarr array a leaf, restorable by Orbax torch.json                   of a
    converted checkpoint: name and dtype of each torch tensor, for the way back digests.json
    size and sha256 of every other file, written last
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from helios_jax.checkpoint import arrays
from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.files import (
    Progress,
    check_digests,
    check_sizes,
    new_directory,
    read_digests,
    read_json,
    write_digests,
    write_json,
)
from helios_jax.checkpoint.layout import Slot, leaves
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.config import ConfigError, HeliosConfig, from_dict, to_dict
from helios_jax.types import Params

FORMAT, VERSION = "helios-jax", 1


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
    flat = {component: flatten(tree) for component, tree in components.items()}
    slots = {component: _slots(config, component) for component in components}
    for component, tree in flat.items():
        expected = {leaf: slot.leaf_shape for leaf, slot in leaves(slots[component]).items()}
        check_tensors(
            f"the {component} tree",
            expected,
            {leaf: tuple(array.shape) for leaf, array in tree.items()},
        )
    with new_directory(path, overwrite) as root:
        write_config(root, config)
        if tokenizer is not None:
            write_tokenizer(root, tokenizer)
        for component, tree in flat.items():
            dtypes = {leaf: np.dtype(array.dtype) for leaf, array in tree.items()}
            write_component(
                root,
                component,
                slots[component],
                dtypes,
                lambda slot, tree=tree: np.asarray(tree[slot.path][slot.index]),
            )
        write_digests(root)


def load_config(path: str | os.PathLike) -> HeliosConfig:
    """The configuration of a checkpoint directory.

    Raises:
      CheckpointError: if there is no such checkpoint, it is unfinished, or its ``config.json`` is
        damaged or of another format.
    """
    root = _root(path)
    digests = read_digests(root)
    if "config.json" not in digests:
        raise CheckpointError(f"{root} has no config.json: not a helios-jax checkpoint")
    check_digests(root, digests, ["config.json"])
    values = read_json(root / "config.json")
    if values.pop("format", None) != FORMAT:
        raise CheckpointError(
            f'{root / "config.json"} does not say "format": "{FORMAT}": not a helios-jax checkpoint'
        )
    if (version := values.pop("version", None)) != VERSION:
        raise CheckpointError(
            f"{root} has format version {version}; this helios-jax reads version {VERSION}: convert it again"
        )
    try:
        return from_dict(HeliosConfig, values)
    except ConfigError as error:
        raise CheckpointError(f"{root / 'config.json'}: {error}") from error


def load_params(
    path: str | os.PathLike,
    component: str,
    dtypes: Callable[[str], Any] | None = None,
    verify: bool = True,
    sharding: jax.sharding.Sharding | Callable[[str], jax.sharding.Sharding] | None = None,
    progress: Callable[[int], Any] = lambda size: None,
) -> Params:
    """Read a component's parameters, leaf by leaf, so that the host holds one leaf at a time beside
    what is already placed.

    Args:
      path: the checkpoint directory.
      component: ``"transformer"``, ``"vae"`` or ``"text_encoder"``.
      dtypes: dtype of each leaf given its path (``"blocks/attn1/qkv/kernel"``), converted while
        reading; None keeps what is stored.
      verify: check each leaf's files against their digests before they are used. Sizes are checked
        in any case.
      sharding: where to place the leaves: one sharding for all or a function of the leaf's path;
        each device reads its own part. None: the default device.
      progress: told the bytes of each leaf that is in place.

    Returns:
      The nested dictionary of arrays.

    Raises:
      CheckpointError: if the component is absent, or a file is missing, truncated or altered
        (naming it).
    """
    root = _root(path)
    expected = leaves(_slots(load_config(root), component))
    digests = read_digests(root)
    files = {leaf: [] for leaf in expected}
    for name in digests:
        folder, _, rest = name.partition("/")
        leaf = rest.rpartition("/")[0].replace(".", "/")
        if folder == component and leaf in files:
            files[leaf].append(name)
    absent = sorted(leaf for leaf, names in files.items() if not names)
    if len(absent) == len(files):
        held = [name for name in COMPONENTS if any(file.startswith(f"{name}/") for file in digests)]
        raise CheckpointError(
            f"{root} has no {component}; it has: {', '.join(held) or 'no component'}"
        )
    if absent:
        raise CheckpointError(
            f"{root / component} does not fit its config.json; missing: {', '.join(absent)}"
        )
    check_sizes(root, digests, [name for names in files.values() for name in names])

    loaded = {}
    for leaf, slot in expected.items():
        if verify:
            check_digests(root, digests, files[leaf])
        place = sharding(leaf) if callable(sharding) else sharding
        loaded[leaf] = _load_leaf(root / component, slot, dtypes(leaf) if dtypes else None, place)
        progress(loaded[leaf].nbytes)
    return unflatten(loaded)


def write_config(root: Path, config: HeliosConfig) -> None:
    """Write ``config.json``."""
    write_json(root / "config.json", {"format": FORMAT, "version": VERSION, **to_dict(config)})


def write_tokenizer(root: Path, tokenizer: Any) -> None:
    """Write ``tokenizer/``: a copy of a ``tokenizer.json`` or of the files beside one in a folder,
    or what a tokenizer object saves.
    """
    target = root / "tokenizer"
    if not isinstance(tokenizer, str | os.PathLike):
        target.mkdir()
        tokenizer.save(str(target / "tokenizer.json"))
        return
    source = Path(tokenizer)
    if not (source if source.is_file() else source / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{source} has no tokenizer.json; if it has a spiece.model, make one with "
            f"`transformers.AutoTokenizer.from_pretrained({str(source)!r}).save_pretrained({str(source)!r})`"
        )
    target.mkdir()
    for file in [source] if source.is_file() else sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, target / ("tokenizer.json" if source.is_file() else file.name))


def write_component(
    root: Path,
    component: str,
    slots: list[Slot],
    dtypes: Mapping[str, Any],
    read: Callable[[Slot], np.ndarray],
    progress: Progress = lambda written: None,
) -> None:
    """Write a component's arrays, asking for one slot's values at a time.

    Args:
      root: the directory being made.
      component: its name.
      slots: its name table.
      dtypes: dtype of each leaf.
      read: the values of a slot, ``leaf[slot.index]``, in the leaf's dtype.
      progress: told the bytes of each slot written.
    """
    targets = arrays.create(root / component, leaves(slots), dtypes)
    for slot in slots:
        part = read(slot)
        arrays.write(targets[slot.path], slot.index, part)
        progress(part.nbytes)


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested dictionary by path, keys joined with ``/``."""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}/")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of :func:`flatten`."""
    tree: Params = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for key in folders:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree


def _load_leaf(
    folder: Path, slot: Slot, dtype: Any, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    try:
        array = arrays.open_array(folder, slot.path)
        if tuple(array.shape) != slot.leaf_shape:
            raise CheckpointError(
                f"{folder}: {slot.path} has shape {list(array.shape)}, config.json asks for {list(slot.leaf_shape)}"
            )
        if dtype is not None:
            array = ts.cast(array, ts.dtype(np.dtype(dtype)))
        if sharding is None:
            return jnp.asarray(array.read().result())
        return jax.make_array_from_callback(
            slot.leaf_shape, sharding, lambda index: array[index].read().result()
        )
    except (ValueError, OSError) as error:
        raise (
            error
            if isinstance(error, CheckpointError)
            else CheckpointError(f"cannot read {folder / slot.path}: {error}")
        ) from error


def _slots(config: HeliosConfig, component: str) -> list[Slot]:
    if component not in COMPONENTS:
        raise CheckpointError(f"unknown component {component!r}; there are {', '.join(COMPONENTS)}")
    return component_slots(config, component)


def _root(path: str | os.PathLike) -> Path:
    root = Path(path)
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a directory: no checkpoint there")
    if (root / "model_index.json").is_file():
        raise CheckpointError(
            f"{root} is a Diffusers folder: convert it first with convert_torch_weights.py --source {root} --out DIR"
        )
    return root
