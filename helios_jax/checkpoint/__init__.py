"""Checkpoints: our own directories, and the way from and to PyTorch's."""

from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.directory import (
    component_digest,
    load_config,
    load_params,
    load_tokenizer,
)
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.saving import rewrite, save

__all__ = [
    "AdapterFile",
    "CheckpointError",
    "component_digest",
    "load_config",
    "load_params",
    "load_tokenizer",
    "rewrite",
    "save",
]
