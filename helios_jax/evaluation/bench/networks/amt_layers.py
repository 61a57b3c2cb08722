"""Layers of AMT: convolutions, activations, and resampling of images and flows.

A flow is (x, y) in pixels of the map it belongs to.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from helios_jax.types import Array, DTypeLike, Float

SIDE = 20
"""Channels that a :class:`SideResidual` treats apart."""


class Conv(nn.Module):
    """A convolution that keeps the size, or divides it by ``stride``.

    Attributes:
      features: channels of the result.
      kernel: its side, odd.
      stride: of its steps.
      dtype: in which to compute.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x O"]:
        side = self.kernel
        return nn.Conv(
            self.features,
            (side, side),
            strides=self.stride,
            padding=(side - 1) // 2,
            dtype=self.dtype,
            name="conv",
        )(x)


class PReLU(nn.Module):
    """``max(x, 0) + slope min(x, 0)`` with a slope a channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slope.astype(x.dtype)[None, None, None] * x)


class ConvPReLU(nn.Module):
    """:class:`Conv`, then :class:`PReLU`."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x O"]:
        x = Conv(self.features, stride=self.stride, dtype=self.dtype, name="conv")(x)
        return PReLU(name="prelu")(x)


class SideResidual(nn.Module):
    """Five convolutions on a residual stream, two of them on the last 20 channels alone."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        width = x.shape[-1]
        y = x
        for all_channels, side in (("conv1", "conv2"), ("conv3", "conv4")):
            y = ConvPReLU(width, dtype=self.dtype, name=all_channels)(y)
            y_side = ConvPReLU(SIDE, dtype=self.dtype, name=side)(y[..., -SIDE:])
            y = jnp.concatenate([y[..., :-SIDE], y_side], axis=-1)
        y = Conv(width, dtype=self.dtype, name="conv5")(y)
        return PReLU(name="prelu")(x + y)


class Upsample(nn.Module):
    """A transposed convolution to twice the size: kernel 4, stride 2, padding 1.

    Each of the four pixels that come from one sees 2x2 of its neighbours, so that it is one
    convolution with a kernel of 2 and four times the channels.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x O"]:
        batch, height, width, channels = x.shape
        kernel_shape = (4, 4, channels, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), kernel_shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # Pixel 2i + p is sum_k kernel[k] x[(2i + p + 1 - k) / 2]: for p = 0, taps 3 and 1 of
        # x[i - 1] and x[i]; for p = 1, taps 2 and 0 of x[i] and x[i + 1].
        taps = ((3, 1), (2, 0))
        quarters = []
        for rows, columns in itertools.product(taps, taps):
            quarters.append(kernel[jnp.array(rows)][:, jnp.array(columns)])
        joined = jnp.concatenate(quarters, axis=-1).astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            joined,
            window_strides=(1, 1),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = y.reshape(batch, height + 1, width + 1, 2, 2, self.features)
        rows = []
        for p in range(2):
            cells = [y[:, p : p + height, q : q + width, p, q] for q in range(2)]
            rows.append(jnp.stack(cells, axis=3))
        y = jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, self.features)
        return y + bias.astype(self.dtype)[None, None, None]


def leaky_relu(x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """``max(x, x / 10)``."""
    return nn.leaky_relu(x, 0.1)


def instance_norm(x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """Every channel of every image brought to mean 0 and deviation 1, in float32."""
    y = x.astype(jnp.float32)
    mean = y.mean(axis=(1, 2), keepdims=True)
    variance = jnp.square(y - mean).mean(axis=(1, 2), keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)


def resize(x: Float[Array, "B Y X C"], scale: int | float) -> Float[Array, "B y x C"]:
    """Bilinear, without antialiasing; pixels are squares, as with PyTorch's ``align_corners``
    false.
    """
    batch, height, width, channels = x.shape
    shape = (batch, int(height * scale), int(width * scale), channels)
    return jax.image.resize(
        x, shape, "linear", antialias=False, precision=jax.lax.Precision.HIGHEST
    )


def resize_flow(flow: Float[Array, "B Y X C"], scale: int | float) -> Float[Array, "B y x C"]:
    """A flow on a map of another size, in that map's pixels."""
    return scale * resize(flow, scale)


@functools.partial(jnp.vectorize, signature="(y,x,c),(y,x,k)->(y,x,c)")
def warp(x: Float[Array, "Y X C"], flow: Float[Array, "Y X 2"]) -> Float[Array, "Y X C"]:
    """``x`` at each pixel plus its flow, bilinear; beyond the border, what is at the border."""
    height, width = x.shape[:2]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] + flow[..., 0]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] + flow[..., 1]
    columns = jnp.clip(columns, 0, width - 1)
    rows = jnp.clip(rows, 0, height - 1)
    left = jnp.minimum(jnp.floor(columns), width - 2)
    top = jnp.minimum(jnp.floor(rows), height - 2)
    right_share = (columns - left)[..., None].astype(x.dtype)
    bottom_share = (rows - top)[..., None].astype(x.dtype)
    left = left.astype(jnp.int32)
    top = top.astype(jnp.int32)
    upper = x[top, left] * (1 - right_share) + x[top, left + 1] * right_share
    lower = x[top + 1, left] * (1 - right_share) + x[top + 1, left + 1] * right_share
    return upper * (1 - bottom_share) + lower * bottom_share
