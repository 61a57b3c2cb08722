"""The norm over channels, by whichever implementation serves best."""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..batch import on_each_device
from ..dispatch import Implementation, Target, dispatch
from ..gradient import with_plain_gradient
from . import reference

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def channel_norm(
    x: Float[Array, "B T Y X C"],
    gamma: Float[Array, "C"],
    past: Float[Array, "B r Y X C"] | None = None,
    *,
    silu: bool = False,
    reach: int = 0,
    keep: bool = False,
    implementation: str | None = None,
) -> tuple[Float[Array, "B _ Y X C"], Float[Array, "B r Y X C"] | None]:
    """√C · gamma · x / max(|x|, 1e-12), the length taken over channels, behind the frames before.

    Args:
      x: the frames of a clip.
      gamma: weight of each channel.
      past: ``reach`` frames in ``x``'s dtype that come before the result, as they are; None for
        zeros.
      silu: apply SiLU to the norm, with no rounding between.
      reach: number of frames before, static.
      keep: return the last ``reach`` frames as an array of their own, too. The Triton kernel writes
        them over ``past`` if nothing else needs it.
      implementation: "triton", "pallas" or "xla"; None for the first of them that serves these
        arguments on this device.

    Returns:
      ``reach`` frames and those of ``x``, computed in float32 and in ``x``'s dtype; and the last
      ``reach`` of them, or None.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    static = dict(silu=silu, reach=reach, keep=keep)
    return dispatch("channel_norm", IMPLEMENTATIONS, implementation, x, gamma, past, **static)


def _kernel(module: str) -> Callable[..., Any]:
    """A kernel of this folder, imported when it is run: a CPU needs neither Triton nor Pallas."""

    def run(*arrays, **static):
        kernel = importlib.import_module(f".{module}", __package__).channel_norm
        return on_each_device(functools.partial(kernel, **static), *arrays)

    return with_plain_gradient(run, reference.channel_norm)


def _refuses_triton(target: Target, x: Array, *_, **__) -> str | None:
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.kind} ({target.platform})"
    if importlib.util.find_spec("jax_triton") is None:
        return "jax-triton is not installed"
    if x.shape[-1] > TRITON_CHANNELS:
        return f"it takes up to {TRITON_CHANNELS} channels, not {x.shape[-1]}"
    return _refuses_dtype(x)


def _refuses_pallas(target: Target, x: Array, *_, **__) -> str | None:
    if not target.has_mosaic:
        return f"it needs a GPU of compute capability 9 or 10, not {target.kind}"
    from .pallas import MOST_CHANNELS, lanes

    channels = x.shape[-1]
    if channels > MOST_CHANNELS or not lanes(channels):
        return f"it takes a multiple of 8 channels, up to {MOST_CHANNELS}, not {channels}"
    return _refuses_dtype(x)


def _refuses_dtype(x: Array) -> str | None:
    if x.dtype in DTYPES:
        return None
    return f"it takes bfloat16, float16 and float32, not {x.dtype}"


TRITON_CHANNELS = 4096
"""Of a pixel that one Triton program takes."""

IMPLEMENTATIONS = {
    "triton": Implementation(_kernel("triton"), _refuses_triton),
    "pallas": Implementation(_kernel("pallas"), _refuses_pallas),
    "xla": Implementation(reference.channel_norm, lambda *_, **__: None),
}
