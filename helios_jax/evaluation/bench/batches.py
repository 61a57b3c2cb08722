"""Frames through a network in batches, so that memory does not grow with a video."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.types import Array, DTypeLike


def compute_dtype() -> DTypeLike:
    """bfloat16 on an accelerator, float32 on a CPU, which is no faster in anything else."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def in_batches(function: Callable[[Array], Array], items: np.ndarray, most: int) -> np.ndarray:
    """``function`` of all items, in batches of one size, the largest up to ``most`` that fits.

    The last batch is filled up with the last item, so that each length compiles once.

    Args:
      function: of a batch ``[b, ...]`` on the device, to ``[b, ...]``.
      items: ``[n, ...]`` on the host.
      most: items on the device at a time.
    """
    count = -(-len(items) // most)
    size = -(-len(items) // count)
    results = []
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        missing = size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        results.append(np.asarray(function(jnp.asarray(batch)))[: size - missing])
    return np.concatenate(results)
