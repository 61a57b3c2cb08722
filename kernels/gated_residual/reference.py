"""Residual addition gated by one row for history and one for noisy tokens, and the norm that
follows it, in plain JAX.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..norm.reference import layer_norm
from ..segments import scale_segments, segment_rows


def gated_residual(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"],
    gate: Float[Array, "#B #2 D"] | None,
    *,
    history: int,
) -> Float[Array, "B N D"]:
    """x + gate · y in float32, returned in ``x``'s dtype; row 0 of ``gate`` serves the first
    ``history`` tokens, row 1 the others.
    """
    skipped = x.shape[1] - y.shape[1]
    term = y.astype(jnp.float32)
    if gate is not None:
        term = scale_segments(term, gate.astype(jnp.float32), history - skipped)
    added = (x[:, skipped:].astype(jnp.float32) + term).astype(x.dtype)
    return jnp.concatenate([x[:, :skipped], added], axis=1) if skipped else added


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
) -> tuple[Float[Array, "B N D"], Float[Array, "B n_normed D"]]:
    """The gated sum, and LN(sum) · scale + shift in float32 of the sum as it was rounded; without
    ``norm_history``, of the noisy tokens only.
    """
    added = gated_residual(x, y, gate, history=history)
    if not norm_history:
        x, history = added[:, history:], 0
    else:
        x = added
    normed = scale_segments(
        layer_norm(x.astype(jnp.float32), eps=eps), scale.astype(jnp.float32), history
    )
    return added, (normed + segment_rows(shift.astype(jnp.float32), x.shape[1], history)).astype(
        x.dtype
    )
