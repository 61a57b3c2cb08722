"""Random weights and inputs that golden numbers belong to, and how the numbers are compared.

Weights are drawn for the tensors of a network in the order of their names: a vector named
``*weight`` is ``1 + 0.1 z``, another vector ``0.02 z``, all else ``z / sqrt(fan in)``.
"""

import numpy as np

from helios_jax.checkpoint.safetensors_files import TorchTensor
from helios_jax.evaluation.bench.networks.amt_names import amt_slots


def random_tensors(shapes, seed, norm=1.0):
    """Tensors by name, float32; ``norm`` is the mean of vectors named ``*weight``."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name in sorted(shapes):
        shape = shapes[name]
        z = rng.standard_normal(shape)
        if len(shape) == 1 and name.endswith("weight"):
            z = norm + 0.1 * z
        elif len(shape) == 1:
            z = 0.02 * z
        else:
            z = z / np.sqrt(np.prod(shape[1:]))
        arrays[name] = z.astype(np.float32)
    return arrays


def amt_arrays(seed=4):
    """Random tensors of AMT-S, of which some are made smaller, so that flows stay in the frame."""
    arrays = random_tensors(shapes_of(amt_slots()), seed, norm=0.25)
    for name in arrays:
        if name.endswith(("convblock.2.weight", "flow_head.2.weight", "comb_block.2.weight")):
            arrays[name] = arrays[name] * np.float32(0.2)
    return arrays


def as_tensors(arrays):
    """Arrays as the readers of files give them."""

    def tensor(array):
        return TorchTensor(array.dtype, array.shape, lambda: array)

    return {name: tensor(array) for name, array in arrays.items()}


def shapes_of(slots):
    return {slot.name: slot.shape for slot in slots}


def random_input(seed, *shape):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def assert_golden(found, first, mean, std, norm):
    """The first values, mean, deviation and length of an array, to the digits that are given."""
    found = np.asarray(found, np.float64)
    np.testing.assert_allclose(found.ravel()[: len(first)], first, atol=1e-5)
    np.testing.assert_allclose([found.mean(), found.std()], [mean, std], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found), norm, rtol=1e-5)
