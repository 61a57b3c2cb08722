"""Frames through a network in batches, so that memory does not grow with a video."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from helios_jax.devices import cpu_cores
from helios_jax.types import Array, DTypeLike, Int


def compute_dtype() -> DTypeLike:
    """bfloat16 on an accelerator, float32 on a CPU, which is no faster in anything else."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def in_batches(
    function: Callable[[Array], Array],
    frames: UInt8[np.ndarray, "F Y X 3"],
    indices: Int[np.ndarray, "n *k"],
    most: int,
) -> np.ndarray:
    """``function`` of frames or groups of frames, in batches of one size, so that it compiles once.

    The last batch is filled up with its last item. A CPU computes a batch on each core: XLA spreads
    products over the cores, and little of what lies between them.

    Args:
      function: of a batch ``[b, *k, Y, X, 3]`` on the device, to ``[b, ...]``.
      frames: a video, on the host; only the frames of a batch are copied.
      indices: of the frames of each item.
      most: items of a batch at most; the largest even share is taken.
    """
    at_once = min(cpu_cores(), len(indices)) if jax.default_backend() == "cpu" else 1
    rounds = -(-len(indices) // (most * at_once))
    size = -(-len(indices) // (rounds * at_once))
    # A thread has a default of its own.
    # pyrefly: ignore[missing-attribute]  JAX makes the attributes of its flags at run time
    device = jax.config.jax_default_device

    def compute(start: int) -> np.ndarray:
        batch = indices[start : start + size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        with jax.default_device(device):
            return np.asarray(function(jnp.asarray(frames[filled])))[: len(batch)]

    with ThreadPoolExecutor(at_once) as pool:
        return np.concatenate([*pool.map(compute, range(0, len(indices), size))])
