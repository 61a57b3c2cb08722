"""Checkpoints: our own directories, and the way from and to PyTorch's."""

from helios_jax.checkpoint.directory import load_config, load_params, save
from helios_jax.checkpoint.errors import CheckpointError

__all__ = ["CheckpointError", "load_config", "load_params", "save"]
