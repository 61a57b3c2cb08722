"""Convolutions over clips, each in the form that is fastest on the device."""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from helios_jax.kernels.dispatch import UnsupportedError
from helios_jax.types import Array, Float

COMPILER_OPTIONS = {"xla_gpu_force_conv_nhwc": True}
"""Of programs whose convolutions are "conv3d": without it XLA makes them channels first on a GPU,
with a copy there and one back.
"""


def convolve(
    x: Float[Array, "B T Y X C"],
    kernel: Float[Array, "kt ky kx C O"],
    bias: Float[Array, "O"],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    implementation: str | None = None,
) -> Float[Array, "B t y x O"]:
    """Convolution of a clip: ``y[t] = bias + sum_k conv2d(x[strides[0] * t + k], kernel[k])``.

    Args:
      x: the clip, with the frames that the first output looks back on: time is not padded.
      kernel: taps in time, rows, columns.
      bias: one value an output channel.
      strides: in time, rows, columns.
      padding: zeros before and after the rows, and the columns.
      implementation: on an NVIDIA GPU, "conv3d" or "frames_as_channels"; None for the latter, which
        needs no option of the compiler.

    Returns:
      ``(T - kt) // strides[0] + 1`` frames, possibly none.

    Raises:
      UnsupportedError: if there is no implementation of that name.
    """
    on_gpu = {None: frames_as_channels, "frames_as_channels": frames_as_channels, "conv3d": conv3d}
    if implementation not in on_gpu:
        raise UnsupportedError(
            f"convolution has no implementation {implementation!r}; there are conv3d, "
            "frames_as_channels"
        )
    on_cpu = tap_by_tap
    if (kernel.shape[0], strides[0], x.dtype) == (3, 1, jnp.float32):
        on_cpu = winograd_in_time  # differences of frames need float32
    arguments = dict(strides=strides, padding=padding)
    y = jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(on_cpu, **arguments),
        cuda=functools.partial(on_gpu[implementation], **arguments),
        default=functools.partial(conv3d, **arguments),
    )
    return y + bias.reshape(1, 1, 1, 1, -1)


def conv3d(x, kernel, strides, padding):
    """XLA's 3-D convolution.

    On a CPU it has a tenth to a third of the 2-D one's rate; on a GPU it is channels first, with
    copies there and back, unless :data:`COMPILER_OPTIONS` say otherwise.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, strides, ((0, 0), *padding), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def tap_by_tap(x, kernel, strides, padding):
    """One 2-D convolution for each tap in time, summed."""
    shifted = _shifted(x, kernel.shape[0], strides[0])
    return sum(_conv2d(frames, tap, strides, padding) for frames, tap in zip(shifted, kernel))


def frames_as_channels(x, kernel, strides, padding):
    """One 2-D convolution over the channels of all frames that an output frame sees, so that its
    sums stay in float32 throughout.
    """
    frames = jnp.concatenate(_shifted(x, kernel.shape[0], strides[0]), axis=-1)
    return _conv2d(frames, jnp.concatenate(list(kernel), axis=2), strides, padding)


def winograd_in_time(x, kernel, strides, padding):
    """Winograd's F(2, 3) in time: four 2-D convolutions for two frames; tap by tap takes six."""
    frames = x.shape[1] - 2
    pairs = -(-frames // 2)
    x = jnp.pad(x, ((0, 0), (0, frames % 2), (0, 0), (0, 0), (0, 0)))
    x0, x1, x2, x3 = (x[:, i : i + 2 * pairs : 2] for i in range(4))
    k0, k1, k2 = kernel
    even = (k0 + k2) / 2
    odd = k1 / 2
    products = (x0 - x2, k0), (x1 + x2, even + odd), (x2 - x1, even - odd), (x1 - x3, k2)
    a, b, c, d = (_conv2d(frame, tap, strides, padding) for frame, tap in products)
    y = jnp.stack([a + b + c, b - c - d], axis=2)
    return y.reshape(x.shape[0], 2 * pairs, *a.shape[2:])[:, :frames]


def _shifted(x, taps, step):
    """The frames that each tap falls on."""
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
    x: Float[Array, "B T Y X C"],
    kernel: Float[Array, "1 3 3 C O"],
    bias: Float[Array, "O"],
    implementation: str | None = None,
) -> Float[Array, "B T 2*Y 2*X O"]:
    """Each pixel repeated in rows and columns, then a 3 x 3 convolution with padding 1.

    Of the three taps in each direction two fall on the same pixel: taps 1 and 2 for the first of
    the two copies, 0 and 1 for the second. With those taps summed, an output pixel takes 2 x 2
    products, not 3 x 3, and the repeated pixels never exist. One 2 x 2 convolution computes the
    four kinds of output pixel as groups of channels, which are then shifted by one row or column.
    """
    # Sums in float32, rounded once; [copy, tap of 2, time, 3, C, O], then with columns in front.
    sums = _taps_of_copies(kernel.astype(jnp.float32), axis=1)
    sums = _taps_of_copies(sums, axis=3).astype(kernel.dtype)
    kernel = rearrange(sums, "b s a r t c o -> t r s c a b o")
    rows, columns = x.shape[2:4]
    # Padded before the convolution: XLA's CPU library has no fast gradient of a padded 2 x 2 one.
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = kernel.reshape(*kernel.shape[:4], -1)
    y = convolve(x, kernel, jnp.tile(bias, 4), implementation=implementation)
    y = y.reshape(*y.shape[:4], 2, 2, -1)
    copies = []
    for i in range(2):
        row = [y[:, :, i : i + rows, j : j + columns, i, j] for j in range(2)]
        copies.append(jnp.stack(row, axis=4))
    y = jnp.stack(copies, axis=3)
    return y.reshape(*x.shape[:2], 2 * rows, 2 * columns, -1)


def _taps_of_copies(kernel, axis):
    """Three taps along an axis as two for each copy of a pixel, in axes [copy, tap] in front."""
    first, middle, last = jnp.moveaxis(kernel, axis, 0)
    return jnp.stack([jnp.stack([first, middle + last]), jnp.stack([first + middle, last])])
