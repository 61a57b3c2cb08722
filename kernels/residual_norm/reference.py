"""The five operations in plain JAX; arguments as in :mod:`.api`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..quantize.reference import quantize
from ..quantize.types import Quantized, UnscaledProduct, scaled
from .fusion import Norm


def layer_norm(
    x: Float[Array, "*axes D"],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "*axes D"]:
    """(x - mean) / √(variance + eps) · scale + bias over the last axis, in float32."""
    y = _tokens(x)
    y -= y.mean(-1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    if scale is not None:
        y *= scale.astype(jnp.float32)[None]
    if bias is not None:
        y += bias.astype(jnp.float32)[None]
    return y.reshape(x.shape).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*axes D"] | UnscaledProduct, scale: Float[Array, "D"], *, eps: float
) -> Float[Array, "*axes D"]:
    """x / √(mean(x²) + eps) · scale over the last axis, in float32."""
    x = scaled(x)
    y = _tokens(x)
    y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * scale.astype(jnp.float32)[None]).reshape(x.shape).astype(x.dtype)


def modulated_layer_norm(
    x: Float[Array, "B N D"],
    shift: Float[Array, "#B 2 D"],
    scale: Float[Array, "#B 2 D"],
    *,
    history: int,
    eps: float,
    quantized: bool = False,
) -> Float[Array, "B N D"] | Quantized:
    """LN(x) · (1 + scale) + shift without affine weights, in float32."""
    y = _scale_segments(layer_norm(x.astype(jnp.float32), eps=eps), 1 + scale, history)
    normed = (y + _row_of_token(shift, x.shape[1], history)).astype(x.dtype)
    return quantize(normed) if quantized else normed


def gated_residual(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"] | UnscaledProduct,
    gate: Float[Array, "#B #2 D"] | None,
    *,
    history: int,
) -> Float[Array, "B N D"]:
    """x + gate · y in float32; without a ``y``, history tokens stay as they are."""
    y = scaled(y)
    skipped = x.shape[1] - y.shape[1]
    term = y.astype(jnp.float32)
    if gate is not None:
        term = _scale_segments(term, gate.astype(jnp.float32), history - skipped)
    added = (x[:, skipped:].astype(jnp.float32) + term).astype(x.dtype)
    return jnp.concatenate([x[:, :skipped], added], axis=1) if skipped else added


def gated_residual_norm(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"] | UnscaledProduct,
    gate: Float[Array, "#B #2 D"] | None,
    affine: tuple[Float[Array, "#B #2 D"], Float[Array, "#B #2 D"]],
    *,
    history: int,
    norm: Norm,
    quantized: bool = False,
) -> tuple[Float[Array, "B N D"], Float[Array, "B n_normed D"] | Quantized]:
    """s = x + gate · y, rounded to ``x``'s dtype, and LN(s) · scale + shift."""
    scale, shift = affine
    added = gated_residual(x, y, gate, history=history)
    x = added
    if norm.noisy_only:
        x = added[:, history:]
        history = 0
    normed = layer_norm(x.astype(jnp.float32), eps=norm.eps)
    normed = _scale_segments(normed, scale.astype(jnp.float32), history)
    normed += _row_of_token(shift.astype(jnp.float32), x.shape[1], history)
    normed = normed.astype(x.dtype)
    return added, quantize(normed) if quantized else normed


def _tokens(x: Float[Array, "*axes D"]) -> Float[Array, "tokens D"]:
    """All tokens in one axis, in float32. Next to a batch axis of size 1, a CPU sums the gradient's
    products far more slowly.
    """
    return x.astype(jnp.float32).reshape(-1, x.shape[-1])


def _row_of_token(
    rows: Float[Array, "#B #2 D"], tokens: int, history: int
) -> Float[Array, "#B #N D"]:
    """The row of each token's segment. The compiler fuses this: nothing of N rows is stored."""
    if history == 0 or rows.shape[1] == 1:
        return rows[:, -1:]
    is_history = (jnp.arange(tokens) < history)[None, :, None]
    return jnp.where(is_history, rows[:, :1], rows[:, 1:])


def _scale_segments(
    x: Float[Array, "B N D"], rows: Float[Array, "#B #2 D"], history: int
) -> Float[Array, "B N D"]:
    """Each token times the row of its segment."""
    rows = _row_of_token(rows, x.shape[1], history)
    if rows.shape[:2] == (1, 1):
        # With all tokens in one axis: beside a batch axis, a CPU sums the gradient's products ten
        # times more slowly.
        return (x.reshape(-1, x.shape[-1]) * rows[0]).reshape(x.shape)
    return x * rows
