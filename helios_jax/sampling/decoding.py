"""Latents to frames."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from helios_jax.kernels.dispatch import target
from helios_jax.models.vae import VAE, decode_latents
from helios_jax.types import Array, Float, Params

VAE_PIECE = 3
"""Latent frames decoded at a time where memory is an accelerator's: enough to keep it busy, at 40 %
of the memory of a whole chunk.
"""

Output = Literal["uint8", "float32", "latent"]
"""What a stream yields: frames in 0..255 (truncated, as Diffusers writes files), frames in [0, 1],
or latents.
"""


@functools.partial(jax.jit, static_argnums=(0, 3))
def decode(vae: VAE, params: Params, latents: Float[Array, "B T H W C"], output: str) -> Array:
    """The frames [B, F, Y, X, 3] of a chunk of latents, which is a clip of its own.

    Args:
      vae, params: the module and its parameters.
      latents: in model space.
      output: "uint8" or "float32".
    """
    piece = None if target().platform == "cpu" else VAE_PIECE
    pixels = decode_latents(vae, params, latents, piece).astype(jnp.float32)
    frames = jnp.clip(pixels / 2 + 0.5, 0, 1)
    return (frames * 255).astype(jnp.uint8) if output == "uint8" else frames
