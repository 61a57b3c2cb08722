"""Sequences of two segments, history tokens first, each with a row of its own for modulation or
gating.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def segment_rows(
    rows: Float[Array, "#B #2 D"], tokens: int, history: int
) -> Float[Array, "#B #N D"]:
    """The row of each token: the first for the ``history`` tokens, the last for the others. Fuses;
    nothing is stored.
    """
    if history == 0 or rows.shape[1] == 1:
        return rows[:, -1:]
    is_history = (jnp.arange(tokens) < history)[None, :, None]
    return jnp.where(is_history, rows[:, :1], rows[:, 1:])


def scale_segments(
    x: Float[Array, "B N D"], rows: Float[Array, "#B #2 D"], history: int
) -> Float[Array, "B N D"]:
    """Each token times the row of its segment."""
    rows = segment_rows(rows, x.shape[1], history)
    if (
        rows.shape[:2] == (1, 1)
    ):  # in one axis of tokens: beside another, a CPU sums the gradient's products ten times more slowly
        return (x.reshape(-1, x.shape[-1]) * rows[0]).reshape(x.shape)
    return x * rows
