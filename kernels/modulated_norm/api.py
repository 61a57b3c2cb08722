"""Layer norm followed by a modulation with one row for history and one for noisy tokens."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import rows
from ..dispatch import dispatch
from . import reference

IMPLEMENTATIONS = rows.implementations(
    reference.modulated_layer_norm,
    lambda x, shift, scale, *, history, eps: dict(
        x=x,
        scale=1 + scale.astype(jnp.float32),
        shift=shift,
        history=history,
        eps=eps,
        norm="layer",
    ),
    lambda x, added, normed: normed,
)


def modulated_layer_norm(
    x: Float[Array, "B N D"],
    shift: Float[Array, "#B 2 D"],
    scale: Float[Array, "#B 2 D"],
    *,
    history: int,
    eps: float,
    implementation: Literal["triton", "pallas", "xla"] | None = None,
) -> Float[Array, "B N D"]:
    """LN(x) · (1 + scale) + shift without affine weights, in float32.

    Args:
      x: ``history`` history tokens, then the noisy ones.
      shift, scale: float32, a row for history and one for noisy tokens.
      history: number of history tokens, static.
      eps: added to the variance.
      implementation: None for the first of "triton", "pallas" and "xla" that serves these arguments
        on this device.

    Returns:
      The result in ``x``'s dtype.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    return dispatch(
        "modulated_layer_norm",
        IMPLEMENTATIONS,
        implementation,
        x,
        shift,
        scale,
        history=history,
        eps=eps,
    )
