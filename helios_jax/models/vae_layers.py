"""The layers of the Wan 2.1 video VAE, which take a clip whole or piece by piece.

A layer that looks back in time keeps the last frames it saw in the ``cache`` collection if that is
mutable, and starts from the frames it finds there. If it finds none, the clip begins. So
``apply({"params": p}, clip)`` runs a whole clip, and ``apply({"params": p, "cache": c}, piece,
mutable=["cache"])`` the next piece of one, with ``c = {}`` for the first.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax.typing import Dtype

from helios_jax.kernels.channel_norm import channel_norm
from helios_jax.models.convolution import convolve, upsample_convolve
from helios_jax.types import Array, Float, Params


class Shared(TypedDict):
    """Attributes of a :class:`Layer`, as it hands them to the layers inside."""

    dtype: Dtype
    param_dtype: Dtype
    convolution: str | None
    kernels: str | None


class Layer(nn.Module, kw_only=True):
    """The base of every module of the VAE.

    Attributes:
      dtype: in which to compute.
      param_dtype: of the parameters.
      convolution: how convolutions are computed on an NVIDIA GPU; see
        :func:`~helios_jax.models.convolution.convolve`.
      kernels: implementation of the norms; see
        :func:`~helios_jax.kernels.channel_norm.channel_norm`.
    """

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    convolution: str | None = None
    kernels: str | None = None

    @property
    def shared(self) -> Shared:
        return Shared(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            convolution=self.convolution,
            kernels=self.kernels,
        )


class Conv(Layer):
    """The base of convolutions: their parameters, and the frames they keep from piece to piece."""

    features: int
    kernel_size: tuple[int, ...]

    def weights(self, channels: int) -> tuple[Array, Array]:
        """Kernel ``[time, rows, columns, in, features]`` and bias ``[features]``, in ``dtype``."""
        if self.has_variable("params", BY_OUTPUT):
            kernel = self.get_variable("params", BY_OUTPUT)
            kernel = kernel.reshape(kernel.shape[0], -1, *kernel.shape[-3:])
            kernel = jnp.moveaxis(kernel, 0, -1)
        else:
            kernel = self.param(
                "kernel",
                nn.initializers.lecun_normal(),
                (*self.kernel_size, channels, self.features),
                self.param_dtype,
            )
            kernel = kernel.reshape(-1, *kernel.shape[-4:])
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return jnp.asarray(kernel, self.dtype), jnp.asarray(bias, self.dtype)

    def cached_frames(self) -> Float[Array, "B r Y X C"] | None:
        """The last frames of the piece before this one; None where the clip begins."""
        return self.get_variable("cache", "past") if self.has_variable("cache", "past") else None

    def keeps_frames(self) -> bool:
        """Whether the caller asks for the cache."""
        return self.is_mutable_collection("cache") and not self.is_initializing()

    def cache_frames(self, frames: Float[Array, "B r Y X C"] | None) -> None:
        """Keep frames for the next piece, if the caller asks for the cache."""
        if self.keeps_frames():
            self.put_variable("cache", "past", frames)


BY_OUTPUT = "kernel_by_output"
"""Name of a convolution's kernel whose first axis is that of the output's channels."""


def kernels_by_output(params: Params) -> Params:
    """The VAE's parameters with the output's channels first in every kernel, as cuDNN reads them.

    XLA turns other kernels whenever a program runs: of the released model 72 launches and 0.2 ms a
    chunk, as predicted for an H200. Leaves may be abstract.
    """

    def turn(kernel):
        return jnp.moveaxis(kernel, -1, 0)

    turned: dict[str, Any] = {}
    for name, leaf in params.items():
        if isinstance(leaf, Mapping):
            turned[name] = kernels_by_output(leaf)
        elif name != "kernel":
            turned[name] = leaf
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            turned[BY_OUTPUT] = jax.eval_shape(turn, leaf)
        else:
            turned[BY_OUTPUT] = turn(leaf)
    return turned


def zeros_before(x: Float[Array, "B T Y X C"], frames: int) -> Float[Array, "B r Y X C"]:
    """Frames of zeros, of the size of those of ``x``."""
    return jnp.zeros_like(x, shape=(x.shape[0], frames, *x.shape[2:]))


class CausalConv(Conv):
    """Convolution in which frame t sees frames ``t - kt + 1 .. t``; before the clip there are
    zeros.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T Y X C"], norm: "ChannelNorm | None" = None
    ) -> Float[Array, "B T Y X O"]:
        """The convolution of ``x``, or of its norm: of what the norm gives, the last frames are
        those that the next piece looks back on.
        """
        kernel, bias = self.weights(x.shape[-1])
        reach, rows, columns = (size - 1 for size in kernel.shape[:3])
        past = self.cached_frames() if reach else None
        if reach and past is None and x.shape[1] == 1:
            # An image: all taps but the newest fall on zeros.
            x = x if norm is None else norm(x)
            self.cache_frames(jnp.concatenate([zeros_before(x, reach - 1), x], axis=1))
            kernel = kernel[-1:]
        elif norm is not None:
            x, last = norm.behind(past, x, reach, self.keeps_frames())
            self.cache_frames(last)
        elif reach:
            past = zeros_before(x, reach) if past is None else past
            x = jnp.concatenate([past, x], axis=1)
            self.cache_frames(x[:, -reach:])
        padding = ((rows // 2, rows // 2), (columns // 2, columns // 2))
        return convolve(x, kernel, bias, padding=padding, implementation=self.convolution)


class TimeUpsample(Conv):
    """Two frames for each one, save the clip's first, which stays one; the convolution does not see
    it.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t Y X C"]:
        kernel, bias = self.weights(x.shape[-1])
        past = self.cached_frames()
        first = x[:, :0]
        if past is None:
            past = zeros_before(x, 2)
            first = x[:, :1]
            x = x[:, 1:]
        x = jnp.concatenate([past, x], axis=1)
        self.cache_frames(x[:, -2:])
        y = convolve(x, kernel, bias, implementation=self.convolution)
        doubled = rearrange(y, "b t y x (two c) -> b (t two) y x c", two=2)
        return jnp.concatenate([first, doubled], axis=1)


class TimeDownsample(Conv):
    """One frame for each two, save the clip's first, which stays one; the convolution sees it."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t Y X C"]:
        kernel, bias = self.weights(x.shape[-1])
        past = self.cached_frames()
        first = x[:, :0]
        if past is None:
            past = x[:, :0]
            first = x[:, :1]
        x = jnp.concatenate([past, x], axis=1)
        self.cache_frames(x[:, -1:])
        y = convolve(x, kernel, bias, strides=(2, 1, 1), implementation=self.convolution)
        return jnp.concatenate([first, y], axis=1)


class Upsample(Layer):
    """Twice the rows and columns and half the channels; with ``time``, twice the frames first."""

    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t 2*Y 2*X O"]:
        channels = x.shape[-1]
        if self.time:
            x = TimeUpsample(2 * channels, (3, 1, 1), **self.shared, name="time_conv")(x)
        return SpatialUpsample(channels // 2, (3, 3), **self.shared, name="resample")(x)


class SpatialUpsample(Conv):
    """Each pixel repeated twice in rows and columns, then a 3 x 3 convolution."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T 2*Y 2*X O"]:
        weights = self.weights(x.shape[-1])
        return upsample_convolve(x, *weights, implementation=self.convolution)


class Downsample(Layer):
    """Half the rows and columns; with ``time``, then half the frames."""

    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t y x C"]:
        channels = x.shape[-1]
        x = SpatialDownsample(channels, (3, 3), **self.shared, name="resample")(x)
        if self.time:
            x = TimeDownsample(channels, (3, 1, 1), **self.shared, name="time_conv")(x)
        return x


class SpatialDownsample(Conv):
    """A 3 x 3 convolution of stride 2, padded with zeros below and on the right only."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T y x O"]:
        return convolve(
            x,
            *self.weights(x.shape[-1]),
            strides=(1, 2, 2),
            padding=((0, 1), (0, 1)),
            implementation=self.convolution,
        )


class ChannelNorm(Layer):
    """``y = sqrt(C) * gamma * x / max(|x|, 1e-12)``, the length taken over channels, in float32.

    Attributes:
      silu: whether SiLU follows.
    """

    silu: bool = False

    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X C"]:
        """The norm, and SiLU of it."""
        frames, _ = self.behind(None, x, 0, keep=False)
        return frames

    @nn.compact
    def behind(
        self,
        past: Float[Array, "B r Y X C"] | None,
        x: Float[Array, "B T Y X C"],
        reach: int,
        keep: bool,
    ) -> tuple[Float[Array, "B _ Y X C"], Float[Array, "B r Y X C"] | None]:
        """``past``, or ``reach`` frames of zeros, and the norm of ``x``; if they are to be kept,
        the last ``reach`` of these frames, too.
        """
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        return channel_norm(
            x.astype(self.dtype),
            gamma,
            past,
            silu=self.silu,
            reach=reach,
            keep=keep,
            implementation=self.kernels,
        )


class ResidualBlock(Layer):
    """``shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))``; the shortcut is a 1 x 1 x 1
    convolution where the width changes.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X O"]:
        y = x
        for i in ("1", "2"):
            norm = ChannelNorm(silu=True, **self.shared, name=f"norm{i}")
            y = CausalConv(self.features, (3, 3, 3), **self.shared, name=f"conv{i}")(y, norm)
        if x.shape[-1] != self.features:
            x = CausalConv(self.features, (1, 1, 1), **self.shared, name="conv_shortcut")(x)
        return x + y


class AttentionBlock(Layer):
    """``x + proj(softmax(q k^T / sqrt(C)) v)``: one head over all pixels of a frame, each frame by
    itself.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X C"]:
        channels = x.shape[-1]
        y = ChannelNorm(**self.shared, name="norm")(x)
        y = CausalConv(3 * channels, (1, 1), **self.shared, name="to_qkv")(y)
        q, k, v = rearrange(y, "b t y x (three c) -> three (b t) (y x) c", three=3)
        logits = jnp.einsum("fqc,fkc->fqk", q, k, preferred_element_type=jnp.float32)
        logits *= channels**-0.5
        y = jnp.einsum("fqk,fkc->fqc", jax.nn.softmax(logits).astype(v.dtype), v).reshape(x.shape)
        return x + CausalConv(channels, (1, 1), **self.shared, name="proj")(y)
