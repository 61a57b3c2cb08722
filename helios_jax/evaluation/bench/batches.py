"""Frames through a network in batches, so that memory does not grow with a video."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

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

    The last batch is filled up with its last item.

    Args:
      function: of a batch ``[b, *k, Y, X, 3]`` on the device, to ``[b, ...]``.
      frames: a video, on the host; only the frames of a batch are copied.
      indices: of the frames of each item.
      most: items of a batch at most; the largest even share is taken.
    """
    count = -(-len(indices) // most)
    size = -(-len(indices) // count)
    results = []
    for start in range(0, len(indices), size):
        batch = indices[start : start + size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        results.append(np.asarray(function(jnp.asarray(frames[filled])))[: len(batch)])
    return np.concatenate(results)
