"""The VAE and the text encoder that records are made with."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax import checkpoint
from helios_jax.checkpoint.params import random_params
from helios_jax.config import HeliosConfig
from helios_jax.data.info import DatasetInfo, json_digest
from helios_jax.fields import to_dict
from helios_jax.models.tokenizer import Tokenizer, clean_prompt, toy_tokenizer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.models.vae import VAE
from helios_jax.types import DTypeLike, Float, Params


class Encoders(NamedTuple):
    """VAE and text encoder with their parameters, and the digests of their weights."""

    vae: VAE
    vae_params: Params
    text_encoder: UMT5Encoder
    text_params: Params
    tokenizer: Tokenizer
    digests: dict[str, str]

    def info(self, frames: int, text_dtype: str) -> DatasetInfo:
        """What the records that they make have in common.

        Args:
          frames: of a section, in pixels.
          text_dtype: that text features are stored in.
        """
        vae = self.vae.config
        return DatasetInfo(
            section_frames=1 + (frames - 1) // vae.temporal_factor,
            latent_channels=vae.z_dim,
            text_width=self.text_encoder.config.d_model,
            text_dtype=text_dtype,
            **self.digests,
        )


def load_encoders(path: str | os.PathLike, verify: bool = True) -> Encoders:
    """The encoders of a checkpoint directory.

    Raises:
      CheckpointError, TokenizerError: if they are not there, or damaged.
    """
    config = checkpoint.load_config(path)
    dtype = _compute_dtype()
    tokenizer = checkpoint.load_tokenizer(path, verify)
    text = checkpoint.load_params(path, "text_encoder", lambda leaf: dtype, verify=verify)
    vae = checkpoint.load_params(path, "vae", lambda leaf: jnp.float32, verify=verify)
    digests = {component: encoder_digest(path, component) for component in ("vae", "text_encoder")}
    text_encoder = UMT5Encoder(config.text_encoder, dtype)
    return Encoders(VAE(config.vae), vae, text_encoder, text, tokenizer, digests)


def random_encoders(config: HeliosConfig, seed: int = 0) -> Encoders:
    """Encoders with the random weights that sampling without a checkpoint has."""
    dtype = _compute_dtype()
    params = random_params(config, seed, dtype)
    tokenizer = toy_tokenizer(config.text_encoder.vocab_size)
    digests = {
        component: f"random {seed} {json_digest(to_dict(getattr(config, component)))}"
        for component in ("vae", "text_encoder")
    }
    text_encoder = UMT5Encoder(config.text_encoder, dtype)
    text = params["text_encoder"]
    return Encoders(VAE(config.vae), params["vae"], text_encoder, text, tokenizer, digests)


def encoder_digest(path: str | os.PathLike, component: str) -> str:
    """A digest of the ``"vae"`` or the ``"text_encoder"`` of a checkpoint directory.

    :class:`~helios_jax.data.info.DatasetInfo` holds it, so that training knows whether records were
    made with the encoders of its checkpoint.
    """
    return checkpoint.component_digest(path, component)


def encode_caption(encoders: Encoders, caption: str) -> Float[np.ndarray, "n E"]:
    """Features of a caption's tokens; a caption that is too long is cut."""
    rows = encoders.text_encoder.config.max_sequence_length
    ids, lengths = encoders.tokenizer([clean_prompt(caption)], rows)
    features, _ = encode_text(encoders.text_encoder, encoders.text_params, ids, lengths)
    return np.asarray(features)[0, : lengths[0]]


def _compute_dtype() -> DTypeLike:
    """In which text is encoded: bfloat16 where there is an accelerator, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
