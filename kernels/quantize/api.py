"""Rounding of tokens to float8, by whichever implementation serves best."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..dispatch import Implementation, Target, dispatch
from ..gradient import with_plain_gradient
from . import reference
from .types import Quantized, UnscaledProduct

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def quantize(
    x: Float[Array, "*tokens D"] | UnscaledProduct,
    *,
    gelu: bool = False,
    implementation: str | None = None,
) -> Quantized:
    """Tokens in float8 e4m3, each with the scale that maps its largest number to 448.

    Args:
      x: any number of tokens; of a product without scales and bias, these are applied first, and
        its features are one axis.
      gelu: apply GELU, in its approximation by tanh, and round to the tokens' dtype, before.
      implementation: "triton", "pallas" or "xla"; None for the first of them that serves these
        arguments on this device.

    Returns:
      values ``[*tokens, D]`` and scales ``[*tokens]``.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    return dispatch("quantize", IMPLEMENTATIONS, implementation, x, gelu=gelu)


def refuses_float8(target: Target) -> str | None:
    """Why a kernel cannot round to float8 on this GPU, or None if it can."""
    if target.capability is not None and target.capability >= (8, 9):
        return None
    return f"it rounds to float8 on compute capability 8.9 and later, not on {target.kind}"


def _kernel(module: str) -> Callable[..., Any]:
    """A kernel of this folder, imported when it is run: a CPU needs neither Triton nor Pallas."""

    def run(x, *, gelu):
        tokens = x.shape[:-1]
        kernel = importlib.import_module(f".{module}", __package__).quantize
        values, scale = kernel(_one_axis(x), gelu=gelu)
        return Quantized(values.reshape(x.shape), scale.reshape(tokens))

    return with_plain_gradient(run, reference.quantize)


def _one_axis(x: Array | UnscaledProduct) -> Array | UnscaledProduct:
    """All tokens in one axis."""
    if isinstance(x, UnscaledProduct):
        sums = x.sums.reshape(-1, x.shape[-1])
        return x._replace(sums=sums, token_scale=x.token_scale.reshape(-1))
    return x.reshape(-1, x.shape[-1])


def _refuses_triton(target: Target, x: Array | UnscaledProduct, **_) -> str | None:
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.kind} ({target.platform})"
    if importlib.util.find_spec("jax_triton") is None:
        return "jax-triton is not installed"
    return refuses_float8(target) or _refuses_dtype(x)


def _refuses_pallas(target: Target, x: Array | UnscaledProduct, **_) -> str | None:
    if not target.has_mosaic:
        return f"it needs a GPU of compute capability 9 or 10, not {target.kind}"
    from .pallas import LANES

    if x.shape[-1] % LANES:
        return f"it takes tokens of a multiple of {LANES} channels, not {x.shape[-1]}"
    return _refuses_dtype(x)


def _refuses_dtype(x: Array | UnscaledProduct) -> str | None:
    if x.dtype in DTYPES:
        return None
    return f"it takes bfloat16, float16 and float32, not {x.dtype}"


IMPLEMENTATIONS = {
    "triton": Implementation(_kernel("triton"), _refuses_triton),
    "pallas": Implementation(_kernel("pallas"), _refuses_pallas),
    "xla": Implementation(reference.quantize, lambda *_, **__: None),
}
