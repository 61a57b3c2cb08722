"""RMS norm and rotary embedding of the joint query, key, value projection, by whichever
implementation serves best.
"""

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
from ..quantize.types import UnscaledProduct
from . import reference


def norm_rope(
    qkv: Float[Array, "B N 3 K d"] | UnscaledProduct,
    scales: tuple[Float[Array, "width"], Float[Array, "width"]],
    rope: tuple[Float[Array, "N pairs"], Float[Array, "N pairs"]],
    key_gain: Float[Array, "K"] | None = None,
    *,
    history: int,
    eps: float,
    keys: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B N K d"], Float[Array, "B S K d"], Float[Array, "B S K d"]]:
    """Queries, keys and values of self-attention, from one read of their joint projection.

    Queries and keys are R(θ) · x / √(mean(x²) + eps) · scale: an RMS norm over the K·d channels of
    a token, then a rotation of each interleaved pair of a head's channels to (x₂ᵢ cos θᵢ - x₂ᵢ₊₁
    sin θᵢ, x₂ᵢ sin θᵢ + x₂ᵢ₊₁ cos θᵢ). Both are computed in float32 and rounded to the projection's
    dtype after each, then once more after the gain. Values are copied.

    Args:
      qkv: queries, keys and values, bfloat16, float16 or float32. Of a product without scales and
        bias, these are applied first.
      scales: weights of the norms of queries and of keys.
      rope: cosines and sines of each token's angles, float32; cos² + sin² may be less than 1, as
        averaged rotations also shrink.
      key_gain: float32 factor of each head's keys in the first ``history`` tokens, or None.
      history: number of history tokens; they come first.
      eps: added to the mean squares.
      keys: tokens, the first of the sequence, that have keys and values; None for all. Those behind
        them fill the rows of matrix products and are attended to by nobody.
      implementation: "triton", "pallas" or "xla"; None for the first of them that serves these
        arguments on this device.

    Returns:
      query, key, value, each contiguous, in the projection's dtype. Differentiable in all arrays.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    arrays = (qkv, scales, rope, key_gain)
    static = dict(history=history, eps=eps, keys=qkv.shape[1] if keys is None else keys)
    return dispatch("norm_rope", IMPLEMENTATIONS, implementation, *arrays, **static)


def _kernel(module: str) -> Callable[..., Any]:
    """A kernel of this folder, imported when it is run: a CPU needs neither Triton nor Pallas."""

    def run(*arrays, **static):
        kernel = importlib.import_module(f".{module}", __package__).norm_rope
        return on_each_device(functools.partial(kernel, **static), *arrays)

    return with_plain_gradient(run, reference.norm_rope)


def _refuses_triton(target: Target, qkv: Array | UnscaledProduct, *_, **__) -> str | None:
    channels = qkv.shape[-1]
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.platform}"
    if importlib.util.find_spec("jax_triton") is None:
        return "jax-triton is not installed"
    if channels & (channels - 1) or not 2 <= channels <= 1024:
        return f"it takes heads of 2, 4, 8, ... up to 1024 channels, not {channels}"
    if qkv.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return f"it takes bfloat16, float16 or float32, not {qkv.dtype}"
    return None


def _refuses_pallas(target: Target, qkv: Array | UnscaledProduct, *_, **__) -> str | None:
    heads, channels = qkv.shape[-2:]
    if not target.has_mosaic:
        return f"it needs a GPU of compute capability 9 or 10, not {target.kind}"
    if channels not in (64, 128, 256):
        return f"it takes heads of 64, 128 or 256 channels, not {channels}"
    if heads * channels % 512:
        return f"it takes whole groups of 512 channels, and {heads} x {channels} are not"
    if qkv.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 or float16, not {qkv.dtype}"
    return None


IMPLEMENTATIONS = {
    "triton": Implementation(_kernel("triton"), _refuses_triton),
    "pallas": Implementation(_kernel("pallas"), _refuses_pallas),
    "xla": Implementation(reference.norm_rope, lambda *_, **__: None),
}
