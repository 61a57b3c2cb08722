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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from helios_jax.checkpoint.adapted import adapt_stored
from helios_jax.checkpoint.adapters import Adapter
from helios_jax.checkpoint.component import StoredLeaf, open_component
from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.files import (
    FileTable,
    raise_problems,
    read_digests,
    read_json,
)
from helios_jax.checkpoint.finite import is_finite
from helios_jax.checkpoint.layout import Index, Slot, leaves
from helios_jax.checkpoint.names import COMPONENTS, component_slots
from helios_jax.config import ConfigError, HeliosConfig, from_dict, to_dict
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.types import Params, tree_bytes

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
            f"helios-jax convert --source {root} --out DIR"
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
    adapters: Sequence[Adapter] = (),
    separate_blocks: bool = False,
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
      adapters: merged into the transformer as it is read.
      separate_blocks: each leaf of the blocks becomes a tuple of one array a layer, as the sampler
        wants them on an accelerator; the device never holds them twice.

    Returns:
      The nested dictionary of arrays.

    Raises:
      CheckpointError: if the component is absent, or a file is missing, truncated or altered
        (naming it), or leaves hold values that are not finite (naming them).
    """
    checkpoint = open_checkpoint(path)
    files = checkpoint.files
    slots = component_slots(checkpoint.config, component)
    try:
        stored = open_leaves(files, component, slots)
    except CheckpointError:
        if verify:  # that a file was altered explains more than what its header then says
            files.check(files.under(component))
        raise
    if adapters:
        stored = adapt_stored(stored, slots, adapters, dtypes)
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
                separate = separate_blocks and leaf_path.startswith("blocks/")
                put = _place_layers if separate else _place
                loaded[leaf_path], whole = put(leaf, dtype, place, check_finite=verify)
                broken += [] if whole else [leaf_path]
                progress(tree_bytes(loaded[leaf_path]))
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


def _place_layers(
    leaf: StoredLeaf,
    dtype: np.dtype,
    sharding: jax.sharding.Sharding | None,
    check_finite: bool,
) -> tuple[tuple[jax.Array, ...], bool]:
    """As :func:`_place`, each layer of a leaf by itself."""
    values = np.array(leaf.read(()), dtype)
    finite = not check_finite or is_finite(values)
    return tuple(jax.device_put(layer, sharding) for layer in values), finite


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
