"""Layer norm followed by a modulation with one row for history and one for noisy tokens, in plain
JAX.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..norm.reference import layer_norm
from ..segments import scale_segments, segment_rows


def modulated_layer_norm(
    x: Float[Array, "B N D"],
    shift: Float[Array, "#B 2 D"],
    scale: Float[Array, "#B 2 D"],
    *,
    history: int,
    eps: float,
) -> Float[Array, "B N D"]:
    """LN(x) · (1 + scale) + shift without affine weights, in float32, returned in ``x``'s dtype.

    Row 0 of ``shift`` and ``scale`` (float32) serves the first ``history`` tokens, row 1 the
    others.
    """
    y = scale_segments(layer_norm(x.astype(jnp.float32), eps=eps), 1 + scale, history)
    return (y + segment_rows(shift, x.shape[1], history)).astype(x.dtype)
