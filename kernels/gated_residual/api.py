"""Residual addition gated by segment, with or without the norm that follows it."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from .. import rows
from ..dispatch import dispatch
from . import reference

GATED_RESIDUAL = rows.implementations(
    reference.gated_residual,
    lambda x, y, gate, *, history: dict(x=x, y=y, gate=gate, history=history),
    lambda x, added, normed: added,
)

GATED_RESIDUAL_NORM = rows.implementations(
    reference.gated_residual_norm,
    lambda x, y, gate, scale, shift, *, history, eps, norm_history: dict(
        x=x,
        y=y,
        gate=gate,
        scale=scale,
        shift=shift,
        history=history,
        eps=eps,
        norm="layer",
        norm_from=0 if norm_history else history,
    ),
    lambda x, added, normed: (added, normed),
)


def gated_residual(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"],
    gate: Float[Array, "#B #2 D"] | None,
    *,
    history: int,
    implementation: Literal["triton", "pallas", "xla"] | None = None,
) -> Float[Array, "B N D"]:
    """x + gate · y, in float32.

    Args:
      x: ``history`` history tokens, then the noisy ones.
      y: what is added: for every token, or for the noisy ones only, and then history tokens stay as
        they are.
      gate: a row for history and one for noisy tokens, or one for both; None for 1.
      history: number of history tokens, static.
      implementation: None for the first of "triton", "pallas" and "xla" that serves these arguments
        on this device.

    Returns:
      The sum, in ``x``'s dtype.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
      ValueError: if ``y`` has neither as many tokens as ``x`` nor as many as are noisy.
    """
    _check(x, y, history)
    return dispatch("gated_residual", GATED_RESIDUAL, implementation, x, y, gate, history=history)


def gated_residual_norm(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"],
    gate: Float[Array, "#B #2 D"] | None,
    scale: Float[Array, "#B #2 D"],
    shift: Float[Array, "#B #2 D"],
    *,
    history: int,
    eps: float,
    norm_history: bool = True,
    implementation: Literal["triton", "pallas", "xla"] | None = None,
) -> tuple[Float[Array, "B N D"], Float[Array, "B n_normed D"]]:
    """The gated sum and its layer norm, without reading the sum back: s = x + gate · y and LN(s) ·
    scale + shift, in float32.

    An affine norm is ``scale[None, None]``, ``shift[None, None]``; a modulated one is ``1 +
    scale``, ``shift``.

    Args:
      x, y, gate, history, implementation: as for :func:`gated_residual`.
      scale, shift: a row for history and one for noisy tokens, or one for both.
      eps: added to the variance.
      norm_history: False to norm noisy tokens only.

    Returns:
      The sum, and the norm of what it was rounded to; both in ``x``'s dtype. Where ``y`` is given
      for noisy tokens only, a kernel writes the sum over ``x`` if nothing else needs ``x``.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
      ValueError: if ``y`` has neither as many tokens as ``x`` nor as many as are noisy.
    """
    _check(x, y, history)
    static = dict(history=history, eps=eps, norm_history=norm_history)
    return dispatch(
        "gated_residual_norm",
        GATED_RESIDUAL_NORM,
        implementation,
        x,
        y,
        gate,
        scale,
        shift,
        **static,
    )


def _check(x: jax.Array, y: jax.Array, history: int) -> None:
    if y.shape[1] not in (x.shape[1], x.shape[1] - history):
        raise ValueError(
            f"y has {y.shape[1]} tokens, but x has {x.shape[1]}, of which {x.shape[1] - history} are noisy"
        )
