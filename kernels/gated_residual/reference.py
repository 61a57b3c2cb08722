"""Residual addition gated by one row for history and one for noisy tokens, in plain JAX."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..segments import segment_rows


def gated_residual(
    x: Float[Array, "B N D"], y: Float[Array, "B N D"], gate: Float[Array, "#B 2 D"], *, history: int
) -> Float[Array, "B N D"]:
    """x + gate · y in float32, returned in ``x``'s dtype; row 0 of ``gate`` serves the first ``history`` tokens, row 1 the others."""
    gates = segment_rows(gate, x.shape[1], history)
    return (x.astype(jnp.float32) + y.astype(jnp.float32) * gates).astype(x.dtype)
