"""Adapters of toy size, without PyTorch."""

import numpy as np
from safetensors.numpy import save_file

from helios_jax.checkpoint.names import transformer_slots


def save_adapter(path, config, rank=2, seed=0):
    """Write a LoRA of every matrix and patch, with a bias, a norm and a table that differ."""
    rng = np.random.default_rng(seed)
    shapes = {slot.name: slot.shape for slot in transformer_slots(config.transformer)}
    tensors = {}
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        if parameter != "weight" or len(shape) < 2:
            continue
        ones = (1,) * (len(shape) - 2)
        down = rng.standard_normal((rank, *shape[1:]), np.float32)
        up = 0.1 * rng.standard_normal((shape[0], rank, *ones), np.float32)
        tensors[f"transformer.{module}.lora_A.weight"] = down
        tensors[f"transformer.{module}.lora_B.weight"] = up
    for name in ("blocks.0.norm2.weight", "blocks.1.attn1.to_k.bias", "norm_out.scale_shift_table"):
        tensors[f"transformer.{name}.diff"] = rng.standard_normal(shapes[name], np.float32)
    save_file(tensors, path)
    return path
