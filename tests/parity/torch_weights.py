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
    """The VAE's parameter tree: kernels [O, I, ...] become [..., I, O], and gamma loses its axes of
    size 1.
    """
    flat = {}
    for name, tensor in state_dict.items():
        array = tensor.detach().cpu().float().numpy()
        for pattern, replacement in _VAE_NAMES:
            name = re.sub(pattern, replacement, name)
        path = tuple(name.split("."))
        if path[-1] == "kernel":
            array = np.moveaxis(array, (0, 1), (-1, -2))
        elif path[-1] == "gamma":
            array = array.reshape(-1)
        flat[path] = array
    return traverse_util.unflatten_dict(flat)
