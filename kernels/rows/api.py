"""Implementations of the operations that are a case of the row kernel."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..dispatch import Implementation, Target
from ..gradient import with_reference_gradient

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def implementations(
    reference: Callable[..., Any],
    case: Callable[..., Mapping[str, Any]],
    result: Callable[..., Any],
) -> dict[str, Implementation]:
    """The table of an operation, best first; the gradient is everywhere the reference's.

    Args:
      reference: the operation in plain JAX, of arrays by position and static values by name, the
        first array being ``x``.
      case: with the same arguments, those of the row kernel:

        * ``x``: [B, N, D], of which the first ``history`` tokens are one segment and the others
          another.
        * ``y``: [B, N, D], or [B, N - history, D] for the second segment only, where the first
          stays as it is. None: nothing is added.
        * ``gate``, ``scale``, ``shift``: [1 or B, 1 or 2, D], a row a segment or one for both; None
          for 1, 1, 0.
        * ``norm``: "layer", "rms", or None for no norm; ``eps``; ``norm_from``: 0, or ``history``
          to norm the second segment only.

      result: of the operation, from ``x`` and the kernel's two results ``added`` and ``normed``,
        each None where it was not asked for.
    """

    def implementation(kernel, hardware, misfit):
        def run(*arrays, **static):
            return result(arrays[0], *kernel(**case(*arrays, **static)))

        def refuses(target, *arrays, **static):
            return (
                hardware(target)
                or _misfit(**case(*arrays, **static))
                or misfit(arrays[0].shape[-1])
            )

        return Implementation(with_reference_gradient(run, reference), refuses)

    return {
        "triton": implementation(_triton, _not_for_triton, _not_for_registers),
        "pallas": implementation(_pallas, _not_for_pallas, _not_for_warpgroup),
        "xla": Implementation(reference, lambda *_, **__: None),
    }


def _triton(**case):
    from .triton import row_kernel

    return row_kernel(**case)


def _pallas(**case):
    from .pallas import row_kernel

    return row_kernel(**case)


def _not_for_triton(target: Target) -> str | None:
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.kind} ({target.platform})"
    return None if importlib.util.find_spec("jax_triton") else "jax-triton is not installed"


def _not_for_pallas(target: Target) -> str | None:
    return (
        None
        if target.is_hopper
        else f"it needs a Hopper GPU, not {target.kind} ({target.platform})"
    )


def _misfit(
    x: jax.Array, y: jax.Array | None = None, gate=None, scale=None, shift=None, **_
) -> str | None:
    dtypes = {
        str(array.dtype): array.dtype for array in (x, y, gate, scale, shift) if array is not None
    }
    if other := [name for name, dtype in dtypes.items() if dtype not in DTYPES]:
        return f"it takes bfloat16, float16 and float32, not {', '.join(other)}"
    if y is not None and x.dtype != y.dtype:
        return f"it adds arrays of one dtype, not {x.dtype} and {y.dtype}"
    return None


def _not_for_registers(channels: int) -> str | None:
    from .triton import CHUNKS, chunk_size

    if channels // chunk_size(channels) > CHUNKS:
        return f"it takes rows of up to {CHUNKS} times a power of two up to 1024, not {channels} channels"
    return None


def _not_for_warpgroup(channels: int) -> str | None:
    from .pallas import CHANNELS

    if channels % 128 or channels > CHANNELS:
        return f"it takes rows of a multiple of 128 channels, up to {CHANNELS}, not {channels}"
    return None
