"""The layers of the Wan 2.1 video VAE: convolutions over clips that may arrive in pieces.

A clip can be run whole or piece by piece, by the same definitions. Each layer that looks back in
time keeps the last frames it saw in the ``cache`` collection when that collection is mutable, and
starts from them when it finds them there. Where it finds nothing, the clip begins. So
``apply({"params": p}, clip)`` runs a whole clip, and ``apply({"params": p, "cache": c}, piece,
mutable=["cache"])`` the next piece of one, with ``c = {}`` for the first.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax.typing import Dtype

from helios_jax.types import Array, Float


def convolve(
    x: Float[Array, "B T Y X C"],
    kernel: Float[Array, "kt ky kx C O"],
    bias: Float[Array, "O"],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> Float[Array, "B t y x O"]:
    """Convolution of a clip: ``y[t] = bias + sum_k conv2d(x[strides[0] * t + k], kernel[k])``.

    Args:
      x: the clip, with the frames that the first output looks back on; there is no padding in time.
      kernel: taps in time, rows, columns.
      bias: one value an output channel.
      strides: in time, rows, columns.
      padding: zeros before and after the rows, and the columns.

    Returns:
      ``(T - kt) // strides[0] + 1`` frames, possibly none.
    """
    # Differences of frames want float32.
    on_cpu = (
        frame_pairs if (kernel.shape[0], strides[0], x.dtype) == (3, 1, jnp.float32) else tap_by_tap
    )
    forms = {"cpu": on_cpu, "cuda": frames_as_channels, "default": conv3d}
    y = jax.lax.platform_dependent(
        x,
        kernel,
        **{
            name: functools.partial(form, strides=strides, padding=padding)
            for name, form in forms.items()
        },
    )
    return y + bias.reshape(1, 1, 1, 1, -1)


def conv3d(x, kernel, strides, padding):
    """XLA's own 3-D convolution: a tenth to a third of the 2-D one's rate on a CPU, and channels
    first, with copies there and back, on a GPU.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, strides, ((0, 0), *padding), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def tap_by_tap(x, kernel, strides, padding):
    """One 2-D convolution for each tap in time, summed."""
    step, taps = strides[0], kernel.shape[0]
    return sum(
        _conv2d(frames, tap, strides, padding)
        for frames, tap in zip(_shifted(x, taps, step), kernel)
    )


def frames_as_channels(x, kernel, strides, padding):
    """One 2-D convolution, over the channels of all frames that an output frame sees: its sums are
    kept in float32 throughout.
    """
    frames = jnp.concatenate(_shifted(x, kernel.shape[0], strides[0]), axis=-1)
    return _conv2d(frames, jnp.concatenate(list(kernel), axis=2), strides, padding)


def frame_pairs(x, kernel, strides, padding):
    """Winograd's F(2, 3) in time: two frames by four 2-D convolutions, where tap by tap they need
    six.
    """
    frames = x.shape[1] - 2
    pairs = -(-frames // 2)
    x = jnp.pad(x, ((0, 0), (0, frames % 2), (0, 0), (0, 0), (0, 0)))
    x0, x1, x2, x3 = (x[:, i : i + 2 * pairs : 2] for i in range(4))
    k0, k1, k2 = kernel
    even, odd = (k0 + k2) / 2, k1 / 2
    products = (x0 - x2, k0), (x1 + x2, even + odd), (x2 - x1, even - odd), (x1 - x3, k2)
    a, b, c, d = (_conv2d(frame, tap, strides, padding) for frame, tap in products)
    return jnp.stack([a + b + c, b - c - d], axis=2).reshape(x.shape[0], 2 * pairs, *a.shape[2:])[
        :, :frames
    ]


def _shifted(x, taps, step):
    """For each tap, the frames it falls on."""
    frames = max(0, (x.shape[1] - taps) // step + 1)
    return [x[:, k : k + step * frames : step] for k in range(taps)]


def _conv2d(x, kernel, strides, padding):
    """A 2-D convolution of every frame."""
    flat = x.reshape(-1, *x.shape[2:])
    y = jax.lax.conv_general_dilated(
        flat, kernel, strides[1:], padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


def upsample_convolve(
    x: Float[Array, "B T Y X C"], kernel: Float[Array, "1 3 3 C O"], bias: Float[Array, "O"]
) -> Float[Array, "B T 2*Y 2*X O"]:
    """Each pixel repeated in rows and columns, then convolved 3 x 3 with padding 1.

    Of the three taps in each direction two fall on the same pixel: taps 1 and 2 for the first of
      the two copies, 0 and 1 for the second.
    With those taps summed, an output pixel takes 2 x 2 products, not 3 x 3, and the repeated pixels
    never exist. One 2 x 2 convolution finds the four kinds of output pixel as groups of channels,
    each group one position further down or right of the last.
    """
    sums = jnp.asarray(
        [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype
    )  # [copy, tap of 2, tap of 3]
    kernel = jnp.einsum("ari,bsj,tijco->trscabo", sums, sums, kernel, precision="highest")
    rows, columns = x.shape[2:4]
    # Not padded by the convolution: XLA's CPU library has no fast gradient of such a kernel then.
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    y = convolve(x, kernel.reshape(*kernel.shape[:4], -1), jnp.tile(bias, 4))
    y = y.reshape(*y.shape[:4], 2, 2, -1)
    copies = [[y[:, :, i : i + rows, j : j + columns, i, j] for j in range(2)] for i in range(2)]
    y = jnp.stack([jnp.stack(row, axis=4) for row in copies], axis=3)
    return y.reshape(*x.shape[:2], 2 * rows, 2 * columns, -1)


class Layer(nn.Module, kw_only=True):
    """What every module of the VAE is told: the dtype it computes in and the dtype of its
    parameters.
    """

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def dtypes(self) -> dict[str, Dtype]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class Conv(Layer):
    """A convolution's kernel ``[*kernel_size, in, features]`` and bias ``[features]``, and its
    frames kept from piece to piece.
    """

    features: int
    kernel_size: tuple[int, ...]

    def weights(self, channels: int) -> tuple[Array, Array]:
        """Kernel, with an axis of time, and bias, in ``dtype``."""
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (*self.kernel_size, channels, self.features),
            self.param_dtype,
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return jnp.asarray(kernel, self.dtype).reshape(-1, *kernel.shape[-4:]), jnp.asarray(
            bias, self.dtype
        )

    def recall(self) -> Float[Array, "B r Y X C"] | None:
        """The frames remembered from the piece before this one; None where the clip begins."""
        return self.get_variable("cache", "past") if self.has_variable("cache", "past") else None

    def remember(self, frames: Float[Array, "B r Y X C"]) -> None:
        """Keeps frames for the next piece, if the caller asks for the cache."""
        if self.is_mutable_collection("cache") and not self.is_initializing():
            self.put_variable("cache", "past", frames)


def zeros_before(x: Float[Array, "B T Y X C"], frames: int) -> Float[Array, "B r Y X C"]:
    """As many frames of zeros, of the size of those of ``x``."""
    return jnp.zeros_like(x, shape=(x.shape[0], frames, *x.shape[2:]))


class CausalConv(Conv):
    """Convolution in which frame t sees frames ``t - kt + 1 .. t``: zeros stand before the clip's
    first.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X O"]:
        kernel, bias = self.weights(x.shape[-1])
        reach, rows, columns = (size - 1 for size in kernel.shape[:3])
        if reach:
            past = self.recall()
            if past is None and x.shape[1] == 1:  # a picture: all taps but the newest fall on zeros
                self.remember(jnp.concatenate([zeros_before(x, reach - 1), x], axis=1))
                kernel = kernel[-1:]
            else:
                x = jnp.concatenate([zeros_before(x, reach) if past is None else past, x], axis=1)
                self.remember(x[:, -reach:])
        return convolve(
            x, kernel, bias, padding=((rows // 2, rows // 2), (columns // 2, columns // 2))
        )


class TimeUpsample(Conv):
    """Two frames for each one, save the clip's first, which stays one and which the convolution
    never sees.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t Y X C"]:
        kernel, bias = self.weights(x.shape[-1])
        past, first = self.recall(), x[:, :0]
        if past is None:
            past, first, x = zeros_before(x, 2), x[:, :1], x[:, 1:]
        x = jnp.concatenate([past, x], axis=1)
        self.remember(x[:, -2:])
        return jnp.concatenate(
            [
                first,
                rearrange(convolve(x, kernel, bias), "b t y x (two c) -> b (t two) y x c", two=2),
            ],
            axis=1,
        )


class TimeDownsample(Conv):
    """One frame for each two, save the clip's first, which stays one and which the convolution does
    see.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t Y X C"]:
        kernel, bias = self.weights(x.shape[-1])
        past, first = self.recall(), x[:, :0]
        if past is None:
            past, first = x[:, :0], x[:, :1]
        x = jnp.concatenate([past, x], axis=1)
        self.remember(x[:, -1:])
        return jnp.concatenate([first, convolve(x, kernel, bias, strides=(2, 1, 1))], axis=1)


class Upsample(Layer):
    """Twice the rows and columns and half the channels; with ``time``, twice the frames first."""

    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t 2*Y 2*X O"]:
        channels = x.shape[-1]
        if self.time:
            x = TimeUpsample(2 * channels, (3, 1, 1), **self.dtypes, name="time_conv")(x)
        return SpatialUpsample(channels // 2, (3, 3), **self.dtypes, name="resample")(x)


class SpatialUpsample(Conv):
    """Each pixel repeated twice in rows and columns, then a 3 x 3 convolution."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T 2*Y 2*X O"]:
        return upsample_convolve(x, *self.weights(x.shape[-1]))


class Downsample(Layer):
    """Half the rows and columns by a 3 x 3 convolution, padded below and on the right only; with
    ``time``, then half the frames.
    """

    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B t y x C"]:
        channels = x.shape[-1]
        x = SpatialDownsample(channels, (3, 3), **self.dtypes, name="resample")(x)
        return (
            TimeDownsample(channels, (3, 1, 1), **self.dtypes, name="time_conv")(x)
            if self.time
            else x
        )


class SpatialDownsample(Conv):
    """A 3 x 3 convolution of stride 2, with one row of zeros below and one column on the right."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T y x O"]:
        return convolve(x, *self.weights(x.shape[-1]), strides=(1, 2, 2), padding=((0, 1), (0, 1)))


class ChannelNorm(Layer):
    """``y = sqrt(C) * gamma * x / max(|x|, 1e-12)``, the length taken over channels, in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X C"]:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        gain = (x.shape[-1] ** 0.5 * jnp.asarray(gamma, jnp.float32)).reshape(1, 1, 1, 1, -1)
        return scaled_unit(x.astype(jnp.float32), gain).astype(self.dtype)


@jax.custom_vjp
def scaled_unit(
    x: Float[Array, "B T Y X C"], gain: Float[Array, "1 1 1 1 C"]
) -> Float[Array, "B T Y X C"]:
    """``gain * x / max(|x|, 1e-12)``, with gradients that take one sum over channels, and hold no
    more than ``x``.
    """
    return _scaled_unit(x, gain)[0]


def _scaled_unit(x, gain):
    inverse = jax.lax.rsqrt(jnp.maximum(_sum_channels(x * x), 1e-24))
    return x * inverse * gain, (x, inverse, gain)


def _scaled_unit_gradients(saved, dy):
    x, inverse, gain = saved
    unit, d_unit = x * inverse, dy * gain
    d_gain = jnp.sum((dy * unit).reshape(-1, x.shape[-1]), axis=0).reshape(gain.shape)
    return inverse * (d_unit - unit * _sum_channels(d_unit * unit)), d_gain


scaled_unit.defvjp(_scaled_unit, _scaled_unit_gradients)


def _sum_channels(x):
    """The sum over the last axis, which stays. On a CPU a product with ones: XLA's sums along a
    short axis are slow there.
    """
    product = lambda x: jnp.einsum("...c,c->...", x, jnp.ones(x.shape[-1], x.dtype))[..., None]
    return jax.lax.platform_dependent(
        x, cpu=product, default=lambda x: jnp.sum(x, axis=-1, keepdims=True)
    )


class ResidualBlock(Layer):
    """``shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))``, the shortcut 1 x 1 x 1 where the
    width changes.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X O"]:
        y = x
        for i in ("1", "2"):
            y = nn.silu(ChannelNorm(**self.dtypes, name=f"norm{i}")(y))
            y = CausalConv(self.features, (3, 3, 3), **self.dtypes, name=f"conv{i}")(y)
        if x.shape[-1] != self.features:
            x = CausalConv(self.features, (1, 1, 1), **self.dtypes, name="conv_shortcut")(x)
        return x + y


class AttentionBlock(Layer):
    """``x + proj(softmax(q k^T / sqrt(C)) v)``: one head over all pixels of a frame, each frame by
    itself.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X C"]:
        channels = x.shape[-1]
        y = ChannelNorm(**self.dtypes, name="norm")(x)
        y = CausalConv(3 * channels, (1, 1), **self.dtypes, name="to_qkv")(y)
        q, k, v = rearrange(y, "b t y x (three c) -> three (b t) (y x) c", three=3)
        logits = (
            jnp.einsum("fqc,fkc->fqk", q, k, preferred_element_type=jnp.float32) * channels**-0.5
        )
        y = jnp.einsum("fqk,fkc->fqc", jax.nn.softmax(logits).astype(v.dtype), v).reshape(x.shape)
        return x + CausalConv(channels, (1, 1), **self.dtypes, name="proj")(y)
