"""Latents to frames."""

from typing import Literal

import jax
import jax.numpy as jnp

from helios_jax.kernels.dispatch import target
from helios_jax.models.convolution import COMPILER_OPTIONS
from helios_jax.models.vae import VAE, decode_latents
from helios_jax.types import Array, Float, Params

VAE_PIECE = 3
"""Latent frames decoded at a time where memory is an accelerator's: enough to keep it busy, at 40 %
of the memory of a whole chunk.
"""

CONVOLUTION = "conv3d"
"""How the sampler's VAE computes convolutions on an NVIDIA GPU. Predicted for the 14B model's chunk
on an H200 before norms were kernels: 128 ms, and 152 by the frames that an output sees as channels
of one, with 5.9 GiB of memory in place of 3.8.
"""

Output = Literal["uint8", "float32", "latent"]
"""What a stream yields: frames in 0..255 (truncated, as Diffusers writes files), frames in [0, 1],
or latents.
"""


def decode_frames(
    vae: VAE, params: Params, latents: Float[Array, "B T H W C"], output: str
) -> Array:
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


decode = jax.jit(decode_frames, static_argnums=(0, 3), compiler_options=COMPILER_OPTIONS)
""":func:`decode_frames` as a program of its own, with the options that its convolutions need."""
