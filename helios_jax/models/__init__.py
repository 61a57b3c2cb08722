"""The networks, in Flax Linen: transformer, video VAE, text encoder and its tokenizer.

A model is ``module.apply({"params": params}, ...)``; nothing here reads a file.
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names

if TYPE_CHECKING:
    from helios_jax.models.discriminator import Discriminator
    from helios_jax.models.lora import init_adapters
    from helios_jax.models.quantization import quantize_transformer
    from helios_jax.models.tokenizer import Tokenizer
    from helios_jax.models.transformer import HeliosTransformer
    from helios_jax.models.umt5 import UMT5Encoder, encode_text
    from helios_jax.models.vae import VAE, decode_latents, encode_clip

_HOMES = {
    "Discriminator": "discriminator",
    "HeliosTransformer": "transformer",
    "Tokenizer": "tokenizer",
    "UMT5Encoder": "umt5",
    "VAE": "vae",
    "decode_latents": "vae",
    "encode_clip": "vae",
    "encode_text": "umt5",
    "init_adapters": "lora",
    "quantize_transformer": "quantization",
}
"""The module of each public name."""

__all__ = [
    "VAE",
    "Discriminator",
    "HeliosTransformer",
    "Tokenizer",
    "UMT5Encoder",
    "decode_latents",
    "encode_clip",
    "encode_text",
    "init_adapters",
    "quantize_transformer",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
