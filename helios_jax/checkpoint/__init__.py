"""Checkpoints: our own directories, and the way from and to PyTorch's."""

from helios_jax.checkpoint.directory import (
    component_digest,
    load_config,
    load_params,
    load_tokenizer,
    rewrite,
    save,
)
from helios_jax.checkpoint.errors import CheckpointError

__all__ = [
    "CheckpointError",
    "component_digest",
    "load_config",
    "load_params",
    "load_tokenizer",
    "rewrite",
    "save",
]
