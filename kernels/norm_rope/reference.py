"""RMS norm over all heads of queries or keys, then rotary embedding, in plain JAX."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..norm.reference import rms_norm


def norm_rope(
    x: Float[Array, "B N K d"], scale: Float[Array, "D"], cos: Float[Array, "N d//2"], sin: Float[Array, "N d//2"], *, eps: float
) -> Float[Array, "B N K d"]:
    """RMS norm over the K·d channels of a token, then rotation of each interleaved pair of channels by its angle.

    The norm is rounded to ``x``'s dtype before it is rotated in float32, and rounded once more after, as in the reference.
    ``cos`` and ``sin`` are float32 and may have cos² + sin² < 1: averaged rotations also shrink.
    """
    B, N, K, d = x.shape
    pairs = rms_norm(x.reshape(B, N, K * d), scale, eps=eps).astype(jnp.float32).reshape(B, N, K, d // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
