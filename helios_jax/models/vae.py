"""The Wan 2.1 causal video VAE: pixels to latents and back, eight times smaller in space and four
times in time.

There are two spaces of latents. The VAE's networks read and write *VAE space*. The transformer
works in *model space*: the same latents with each channel brought to mean 0 and standard deviation
1 by constants of the configuration.

The first frame of a clip is a latent frame of its own; each later latent frame spans
``temporal_factor`` frames. No frame depends on later ones. So a clip may be run whole, or in pieces
in order, with memory for one piece and the layers' last frames; both give the same result.

Modules and parameters have the names of ``vae/diffusion_pytorch_model.safetensors``, with list
indices joined to the list's name.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from flax.typing import Dtype
from jaxtyping import UInt8

from helios_jax.config import VAEConfig
from helios_jax.models.vae_layers import (
    AttentionBlock,
    CausalConv,
    ChannelNorm,
    Downsample,
    Layer,
    ResidualBlock,
    Shared,
    Upsample,
)
from helios_jax.types import Array, Float, Params


class VAE(nn.Module):
    """Encoder and decoder. ``vae.apply({"params": params}, video, method="encode")``, or
    ``"decode"`` with latents.

    Attributes:
      config: widths and depths.
      dtype: in which to compute; norms are always float32.
      param_dtype: of the parameters.
      convolution: how convolutions are computed on an NVIDIA GPU; see
        :func:`~helios_jax.models.convolution.convolve`. Programs of "conv3d" are to be compiled
        with :data:`~helios_jax.models.convolution.COMPILER_OPTIONS`.
      kernels: implementation of the norms; see
        :func:`~helios_jax.kernels.channel_norm.channel_norm`.
    """

    config: VAEConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    convolution: str | None = None
    kernels: str | None = None

    def setup(self):
        shared = Shared(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            convolution=self.convolution,
            kernels=self.kernels,
        )
        self.encoder = Encoder(self.config, **shared)
        self.quant_conv = CausalConv(2 * self.config.z_dim, (1, 1, 1), **shared)
        self.post_quant_conv = CausalConv(self.config.z_dim, (1, 1, 1), **shared)
        self.decoder = Decoder(self.config, **shared)

    def encode(
        self, video: Float[Array, "B F Y X 3"]
    ) -> tuple[Float[Array, "B T H W C"], Float[Array, "B T H W C"]]:
        """The posterior of a clip.

        Args:
          video: pixels in [-1, 1]; frames beyond the last whole latent frame (1 + 4k) have no
            effect.

        Returns:
          Mean and logarithm of the variance, float32, in VAE space.
        """
        moments = self.quant_conv(self.encoder(video.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[Array, "B T H W C"]) -> Float[Array, "B F Y X 3"]:
        """The pixels, in [-1, 1] and of ``dtype``, of latents in VAE space."""
        return jnp.clip(self.decode_unclipped(latents), -1.0, 1.0)

    def decode_unclipped(self, latents: Float[Array, "B T H W C"]) -> Float[Array, "B F Y X 3"]:
        """As :meth:`decode`, but not clipped to [-1, 1]: what training compares."""
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype)))

    def __call__(self, video: Float[Array, "B F Y X 3"]) -> Float[Array, "B f Y X 3"]:
        """The clip encoded to the posterior's mean and decoded; uses every parameter, as ``init``
        needs.
        """
        return self.decode(self.encode(video)[0])


class Encoder(Layer):
    """Pixels to the channels of the posterior: residual blocks, and downsampling after each width
    but the last.
    """

    config: VAEConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B F Y X 3"]) -> Float[Array, "B T H W C"]:
        config = self.config
        x = CausalConv(config.base_dim, (3, 3, 3), **self.shared, name="conv_in")(x)
        blocks = []
        for i, width in enumerate(config.dim_mult):
            blocks += [(ResidualBlock, config.base_dim * width)] * config.num_res_blocks
            blocks += [(Downsample, time) for time in config.temperal_downsample[i : i + 1]]
        for i, (block, argument) in enumerate(blocks):
            x = block(argument, **self.shared, name=f"down_blocks_{i}")(x)
        x = MidBlock(**self.shared, name="mid_block")(x)
        norm = ChannelNorm(silu=True, **self.shared, name="norm_out")
        return CausalConv(2 * config.z_dim, (3, 3, 3), **self.shared, name="conv_out")(x, norm)


class Decoder(Layer):
    """Latents to pixels: residual blocks, and upsampling after each width but the last."""

    config: VAEConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B F Y X 3"]:
        config = self.config
        widths = [config.base_dim * multiple for multiple in reversed(config.dim_mult)]
        x = CausalConv(widths[0], (3, 3, 3), **self.shared, name="conv_in")(x)
        x = MidBlock(**self.shared, name="mid_block")(x)
        for i, width in enumerate(widths):
            # Empty for the last width, which no upsampling follows.
            doubles_time = config.temperal_downsample[::-1][i : i + 1]
            block = UpBlock(
                width, config.num_res_blocks + 1, doubles_time, **self.shared, name=f"up_blocks_{i}"
            )
            x = block(x)
        norm = ChannelNorm(silu=True, **self.shared, name="norm_out")
        return CausalConv(3, (3, 3, 3), **self.shared, name="conv_out")(x, norm)


class UpBlock(Layer):
    """The decoder's residual blocks of one width, and the upsampling after them if there is one.

    Attributes:
      features: the width.
      num_res_blocks: number of residual blocks.
      upsample: whether the upsampling doubles time, or empty for no upsampling.
    """

    features: int
    num_res_blocks: int
    upsample: tuple[bool, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t y x O"]:
        for i in range(self.num_res_blocks):
            x = ResidualBlock(self.features, **self.shared, name=f"resnets_{i}")(x)
        for i, time in enumerate(self.upsample):
            x = Upsample(time, **self.shared, name=f"upsamplers_{i}")(x)
        return x


class MidBlock(Layer):
    """Residual block, attention within each frame, residual block."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        x = ResidualBlock(x.shape[-1], **self.shared, name="resnets_0")(x)
        x = AttentionBlock(**self.shared, name="attentions_0")(x)
        return ResidualBlock(x.shape[-1], **self.shared, name="resnets_1")(x)


def to_model_space(
    config: VAEConfig, latents: Float[Array, "B T H W C"]
) -> Float[Array, "B T H W C"]:
    """``(latents - mean) / std`` of each channel, in float32: what the transformer works on."""
    mean, std = _latent_statistics(config)
    return (latents.astype(jnp.float32) - mean) / std


def to_vae_space(
    config: VAEConfig, latents: Float[Array, "B T H W C"]
) -> Float[Array, "B T H W C"]:
    """``latents * std + mean`` of each channel, in float32: what :meth:`VAE.decode` reads."""
    mean, std = _latent_statistics(config)
    return latents.astype(jnp.float32) * std + mean


def _latent_statistics(
    config: VAEConfig,
) -> tuple[Float[Array, "1 1 1 1 C"], Float[Array, "1 1 1 1 C"]]:
    """Mean and standard deviation of each channel."""
    mean = jnp.asarray(config.latents_mean, jnp.float32).reshape(1, 1, 1, 1, -1)
    std = jnp.asarray(config.latents_std, jnp.float32).reshape(1, 1, 1, 1, -1)
    return mean, std


def sample_posterior(
    mean: Float[Array, "B T H W C"],
    logvar: Float[Array, "B T H W C"],
    noise: Float[Array, "B T H W C"],
) -> Float[Array, "B T H W C"]:
    """``mean + exp(logvar / 2) * noise``, the noise standard normal and drawn by the caller."""
    return mean + jnp.exp(0.5 * logvar) * noise


@functools.partial(jax.jit, static_argnums=0)
def encode_clip(
    vae: VAE,
    params: Params,
    frames: UInt8[Array | np.ndarray, "b F Y X 3"],
    noise: Float[Array, "B T H W C"],
) -> Float[Array, "B T H W C"]:
    """Latents of a clip in model space, float32: the VAE's posterior, sampled with ``noise`` as
    Diffusers does even at inference.

    Zeros for noise give the posterior's mean; one clip serves a batch of noise.
    """
    # Its programs, some of which are part of others, have no compiler options.
    vae = vae.clone(convolution=None)
    pixels = frames.astype(jnp.float32) / 127.5 - 1
    mean, logvar = cast(tuple[Array, Array], vae.apply({"params": params}, pixels, method="encode"))
    mean = jnp.broadcast_to(mean, noise.shape)
    logvar = jnp.broadcast_to(logvar, noise.shape)
    return to_model_space(vae.config, sample_posterior(mean, logvar, noise))


def decode_latents(
    vae: VAE, params: Params, latents: Float[Array, "B T H W C"], piece: int | None = None
) -> Float[Array, "B F Y X 3"]:
    """The pixels of a whole clip, ``1 + temporal_factor * (T - 1)`` frames in [-1, 1].

    Args:
      vae: the module; static under ``jit``.
      params: its parameters.
      latents: the clip, in model space.
      piece: latent frames to decode at a time, with memory for as many, if T is a multiple of it;
        None for all at once.
    """
    if piece is None or latents.shape[1] % piece:
        latents = to_vae_space(vae.config, latents)
        # `apply` returns a pair only if a collection is mutable.
        return cast(Array, vae.apply({"params": params}, latents, method="decode"))
    first, cache = decode_piece(vae, params, {}, latents[:, :piece])
    pieces = rearrange(latents[:, piece:], "b (n t) h w c -> n b t h w c", t=piece)

    def step(cache, piece):
        frames, cache = decode_piece(vae, params, cache, piece)
        return cache, frames

    _, frames = jax.lax.scan(step, cache, pieces)
    return jnp.concatenate([first, rearrange(frames, "n b t y x c -> b (n t) y x c")], axis=1)


def decode_piece(
    vae: VAE, params: Params, cache: Params, latents: Float[Array, "B T H W C"]
) -> tuple[Float[Array, "B F Y X 3"], Params]:
    """The pixels of a clip's next latent frames.

    A clip decoded piece by piece equals the clip decoded whole, with memory for one piece::

        cache = {}
        for piece in pieces:
            video, cache = decode(params, cache, piece)

    Under ``jit``, pieces of one size compile twice: for the first one and for all others.

    Args:
      vae: the module; static under ``jit``.
      params: its parameters.
      cache: what the piece before this one returned; ``{}`` where the clip begins.
      latents: the piece, in model space, any number of frames.

    Returns:
      Its frames in [-1, 1], ``temporal_factor`` for each latent frame but the clip's first, which
      gives one; and the cache for the next piece.
    """
    video, state = vae.apply(
        {"params": params, "cache": cache},
        to_vae_space(vae.config, latents),
        method="decode",
        mutable=["cache"],
    )
    return video, state["cache"]


def encode_piece(
    vae: VAE, params: Params, cache: Params, video: Float[Array, "B F Y X 3"]
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B T H W C"], Params]:
    """The posterior of a clip's next frames, as :func:`decode_piece` is to decoding.

    Args:
      vae: the module; static under ``jit``.
      params: its parameters.
      cache: what the piece before this one returned; ``{}`` where the clip begins.
      video: the piece, in [-1, 1]: ``1 + temporal_factor * k`` frames where the clip begins, later
        ``temporal_factor * k``.

    Returns:
      Mean and logarithm of the variance, in VAE space, and the cache for the next piece.

    Raises:
      ValueError: if the frames do not fill latent frames.
    """
    factor = vae.config.temporal_factor
    first = 0 if cache else 1
    if video.shape[1] % factor != first % factor:
        where = "at the beginning of a clip" if first else "after the first piece"
        raise ValueError(
            f"a piece of {video.shape[1]} frames does not fill latent frames: give"
            f" {first} + {factor} * k frames {where}"
        )
    (mean, logvar), state = vae.apply(
        {"params": params, "cache": cache}, video, method="encode", mutable=["cache"]
    )
    return mean, logvar, state["cache"]
