"""Layer norm and RMS norm over the last axis."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from .. import rows
from ..dispatch import dispatch
from . import reference


def _tokens(x: jax.Array) -> jax.Array:
    """All rows as the tokens of one sequence."""
    return x.reshape(1, -1, x.shape[-1])


def _row(weight: jax.Array | None) -> jax.Array | None:
    """A weight that all batch rows and both segments share."""
    return None if weight is None else weight[None, None]


LAYER_NORM = rows.implementations(
    reference.layer_norm,
    lambda x, scale, bias, *, eps: dict(
        x=_tokens(x), scale=_row(scale), shift=_row(bias), eps=eps, norm="layer"
    ),
    lambda x, added, normed: normed.reshape(x.shape),
)

RMS_NORM = rows.implementations(
    reference.rms_norm,
    lambda x, scale, *, eps: dict(x=_tokens(x), scale=_row(scale), eps=eps, norm="rms"),
    lambda x, added, normed: normed.reshape(x.shape),
)


def layer_norm(
    x: Float[Array, "*axes D"],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    eps: float,
    implementation: Literal["triton", "pallas", "xla"] | None = None,
) -> Float[Array, "*axes D"]:
    """(x - mean) / √(variance + eps) · scale + bias over the last axis, in float32.

    Args:
      x: any number of rows.
      scale, bias: weights, None for 1 and 0.
      eps: added to the variance.
      implementation: None for the first of "triton", "pallas" and "xla" that serves these arguments
        on this device.

    Returns:
      The result in ``x``'s dtype.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    return dispatch("layer_norm", LAYER_NORM, implementation, x, scale, bias, eps=eps)


def rms_norm(
    x: Float[Array, "*axes D"],
    scale: Float[Array, "D"],
    *,
    eps: float,
    implementation: Literal["triton", "pallas", "xla"] | None = None,
) -> Float[Array, "*axes D"]:
    """x / √(mean(x²) + eps) · scale over the last axis, in float32; arguments, result and errors as
    for :func:`layer_norm`.
    """
    return dispatch("rms_norm", RMS_NORM, implementation, x, scale, eps=eps)
