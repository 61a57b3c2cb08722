"""RMS norm of queries and keys over all heads, then rotary embedding, in plain JAX."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..quantize.types import UnscaledProduct, scaled
from ..residual_norm.reference import rms_norm


def norm_rope(
    qkv: Float[Array, "B N 3 K d"] | UnscaledProduct,
    scales: tuple[Float[Array, "width"], Float[Array, "width"]],
    rope: tuple[Float[Array, "N pairs"], Float[Array, "N pairs"]],
    key_gain: Float[Array, "K"] | None = None,
    *,
    history: int,
    eps: float,
    keys: int | None = None,
) -> tuple[Float[Array, "B N K d"], Float[Array, "B S K d"], Float[Array, "B S K d"]]:
    """Queries, keys and values of attention; see :func:`.api.norm_rope`."""
    qkv = scaled(qkv)
    query, key, value = (qkv[:, :, part] for part in range(3))
    scale_q, scale_k = scales
    query = norm_rope_one(query, scale_q, rope, eps=eps)
    cos, sin = rope
    key = norm_rope_one(key[:, :keys], scale_k, (cos[:keys], sin[:keys]), eps=eps)
    value = value[:, :keys]
    if key_gain is not None and history:
        is_history = (jnp.arange(key.shape[1]) < history)[None, :, None, None]
        gain = jnp.where(is_history, key_gain[None, None, :, None], 1)
        key = (key.astype(jnp.float32) * gain).astype(key.dtype)
    return query, key, value


def norm_rope_one(
    x: Float[Array, "B N K d"],
    scale: Float[Array, "K*d"],
    rope: tuple[Float[Array, "N pairs"], Float[Array, "N pairs"]],
    *,
    eps: float,
) -> Float[Array, "B N K d"]:
    """RMS norm over the K·d channels of a token, then rotation of each interleaved pair of channels
    by its angle.
    """
    B, N, K, d = x.shape
    # Rounded to the array's dtype before it is rotated in float32, and once more after, as
    # Diffusers does.
    normed = rms_norm(x.reshape(B, N, K * d), scale, eps=eps)
    pairs = normed.astype(jnp.float32).reshape(B, N, K, d // 2, 2)
    even = pairs[..., 0]
    odd = pairs[..., 1]
    cos, sin = (table[None, :, None, :] for table in rope)
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
