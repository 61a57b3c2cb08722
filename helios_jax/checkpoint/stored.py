"""The torch tensors that a checkpoint directory of ours holds, read back from its leaves."""

import functools
from collections.abc import Iterator

import numpy as np

from helios_jax.checkpoint.component import StoredLeaf
from helios_jax.checkpoint.directory import Checkpoint, open_leaves
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.layout import Slot
from helios_jax.checkpoint.names import component_slots
from helios_jax.checkpoint.safetensors_files import DTYPES, TorchTensor

TORCH_NAMES = "torch.json"
"""File of a converted checkpoint: dtype by torch name of each component, so that the way back gives
the same tensors.
"""

TIED = ("shared.weight", "encoder.embed_tokens.weight")
"""The text encoder's one embedding: files hold either name or both."""


def torch_tensors(checkpoint: Checkpoint, component: str) -> Iterator[tuple[str, TorchTensor]]:
    """The torch tensors of a component, under the names and in the dtypes of ``torch.json``, else
    the slots' and the leaves'.

    Raises:
      CheckpointError: if the checkpoint does not have the component, whole.
    """
    files = checkpoint.files
    names = {}
    if TORCH_NAMES in files.digests:
        names = read_json(files.root / TORCH_NAMES).get(component, {})
    slots = component_slots(checkpoint.config, component)
    stored = open_leaves(files, component, slots)
    for slot in slots:
        leaf = stored[slot.path]
        aliases = [name for name in TIED if name in names] if slot.name in TIED else []
        for name in aliases or [slot.name]:
            dtype = DTYPES[names[name]] if name in names else leaf.dtype
            read = functools.partial(_read, leaf, slot, dtype)
            yield name, TorchTensor(dtype, slot.shape, read)


def _read(leaf: StoredLeaf, slot: Slot, dtype: np.dtype) -> np.ndarray:
    return slot.to_torch(leaf.read(slot.index)).astype(dtype, copy=False)
