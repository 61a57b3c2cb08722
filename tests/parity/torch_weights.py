"""PyTorch state dictionaries as parameter trees, for the tests that compare with PyTorch."""

import re

import numpy as np
from flax import traverse_util

_VAE_NAMES = (
    (r"\.resample\.1\.", ".resample."),  # index 0 of that Sequential has no parameters
    (r"\.(\d+)(?=\.)", r"_\1"),
    (r"\.weight$", ".kernel"),
)


def vae_params_from_torch(state_dict):
    """The VAE's parameter tree: kernels [O, I, ...] become [..., I, O], and the ones of gamma's
    shape go.
    """
    flat = {}
    for name, tensor in state_dict.items():
        array = tensor.detach().cpu().float().numpy()
        for pattern, replacement in _VAE_NAMES:
            name = re.sub(pattern, replacement, name)
        leaf = name.rsplit(".", 1)[-1]
        flat[tuple(name.split("."))] = {
            "kernel": lambda a: np.moveaxis(a, (0, 1), (-1, -2)),
            "gamma": lambda a: a.reshape(-1),
            "bias": lambda a: a,
        }[leaf](array)
    return traverse_util.unflatten_dict(flat)
