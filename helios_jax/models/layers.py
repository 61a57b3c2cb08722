"""The two linear layers of the transformer."""

import math

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from helios_jax.kernels.matmul import matmul
from helios_jax.kernels.quantize import Quantized, UnscaledProduct, quantize, scaled
from helios_jax.models.layer_stack import PRODUCT
from helios_jax.models.lora import adapter_product
from helios_jax.models.quantization import float8_matmul, is_float8, quantized_matmul
from helios_jax.types import Array, DTypeLike, Float


class Projection(nn.Module):
    """y = x · kernel + bias, over the last axes of ``x``.

    If there is an adapter beside the kernel (see :mod:`~helios_jax.models.lora`), its product is
    added.

    Attributes:
      features: shape of the result's last axes, which may be several (parts, heads, channels).
      inputs: number of last axes of ``x`` that are contracted.
      round_activations: with an eight-bit kernel, round ``x`` to eight bits, too.
      kernels: implementation of that rounding, if it is to float8.
    """

    features: tuple[int, ...]
    inputs: int = 1
    use_bias: bool = True
    round_activations: bool = False
    kernels: str | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def takes_quantized(self) -> bool:
        """Whether it multiplies float8 by float8 and nothing beside it: then the kernel before may
        round its input, and the kernel after apply scales and bias.
        """
        return self._multiplies_float8() and not self.has_variable("params", "lora_a")

    def _multiplies_float8(self) -> bool:
        if not self.round_activations or not self.has_variable("params", "kernel_scale"):
            return False
        return is_float8(self.get_variable("params", "kernel"))

    def unscaled(
        self, x: Float[Array, "*batch_and_inputs"] | Quantized
    ) -> Float[Array, "*batch_and_features"] | UnscaledProduct:
        """The product, which leaves scales and bias to the kernel that reads it where
        :meth:`takes_quantized`, and there only takes a quantized ``x``.
        """
        if isinstance(x, Quantized) or self.takes_quantized():
            return self._float8_product(x)
        return self(x)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch_and_inputs"]) -> Float[Array, "*batch_and_features"]:
        is_quantized = self.has_variable("params", "kernel_scale")
        if is_quantized:
            kernel = self.get_variable("params", "kernel")
        else:
            shape = (*x.shape[x.ndim - self.inputs :], *self.features)
            kernel = self.param("kernel", _lecun_normal(self.inputs), shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.features, self.param_dtype)
            bias = bias.astype(self.dtype)
        if self._multiplies_float8():
            y = scaled(self._float8_product(x).flat())
        elif is_quantized:
            scale = self.get_variable("params", "kernel_scale")
            y = quantized_matmul(
                x.astype(self.dtype), kernel, scale, self.inputs, self.round_activations
            ).astype(self.dtype)
            if bias is not None:
                y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
            y = y.reshape(*x.shape[: x.ndim - self.inputs], -1)
        else:
            y = self._flat_product(x.astype(self.dtype), kernel, bias)
        y = checkpoint_name(_adapt(self, y, x, self.inputs), PRODUCT)
        return y.reshape(*y.shape[:-1], *self.features)

    def _float8_product(self, x: Float[Array, "*batch_and_inputs"] | Quantized) -> UnscaledProduct:
        """The product of float8 operands, without its scales and bias."""
        if not isinstance(x, Quantized):
            batch = x.shape[: x.ndim - self.inputs]
            x = quantize(x.astype(self.dtype).reshape(*batch, -1), implementation=self.kernels)
        kernel = self.get_variable("params", "kernel")
        scale = self.get_variable("params", "kernel_scale")
        bias = jnp.zeros(self.features, self.dtype)
        if self.use_bias:
            bias = self.get_variable("params", "bias").astype(self.dtype)
        return float8_matmul(x, kernel, scale, bias)

    def _flat_product(
        self,
        x: Float[Array, "*batch_and_inputs"],
        kernel: Float[Array, "*inputs_and_features"],
        bias: Float[Array, "*features"] | None,
    ) -> Float[Array, "*batch outputs"]:
        """``x · kernel + bias`` as a product of matrices.

        Only the bias of a flat result joins the product's epilogue on a GPU; of several axes it
        would be stored first, as large as the result (339 MB for q, k, v of the 14B model). It is
        added in ``dtype``, before the one rounding; a float32 product would be stored as such.
        """
        batch = x.shape[: x.ndim - self.inputs]
        size = math.prod(kernel.shape[: self.inputs])
        y = matmul(x.reshape(*batch, size), kernel.reshape(size, -1), 1)
        if bias is not None:
            y = y + bias.reshape((1,) * len(batch) + (-1,))
        return y


class PatchEmbedding(nn.Module):
    """Non-overlapping 3-D patches to tokens, in the order of frames, rows, columns.

    An incomplete patch repeats the last plane of its axis.
    """

    features: int
    patch: tuple[int, int, int]
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B T H W C"], spare: int = 0
    ) -> Float[Array, "B rows D"]:
        """The tokens, and behind them ``spare`` more of zeros and the bias."""
        shape = (*self.patch, latents.shape[-1])
        kernel = self.param("kernel", _lecun_normal(4), (*shape, self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        missing = [-size % patch for size, patch in zip(latents.shape[1:4], self.patch)]
        padding = [(0, 0), *((0, n) for n in missing), (0, 0)]
        latents = jnp.pad(latents.astype(self.dtype), padding, mode="edge")
        pt, ph, pw = self.patch
        to_patches = "b (t pt) (h ph) (w pw) c -> b (t h w) (pt ph pw c)"
        patches = rearrange(latents, to_patches, pt=pt, ph=ph, pw=pw)
        patches = jnp.pad(patches, ((0, 0), (0, spare), (0, 0)))
        tokens = matmul(patches, kernel.reshape(math.prod(shape), -1), 1)
        tokens = _adapt(self, tokens, patches.reshape(*patches.shape[:2], *shape), 4)
        return tokens + bias.astype(self.dtype)[None, None]


def _adapt(
    module: Projection | PatchEmbedding,
    y: Float[Array, "*batch outputs"],
    x: Float[Array, "*batch_and_inputs"],
    inputs: int,
) -> Float[Array, "*batch outputs"]:
    """``y`` with the product of the module's adapter, if it has one."""
    if not module.has_variable("params", "lora_a"):
        return y
    lora_a = module.get_variable("params", "lora_a")
    lora_b = module.get_variable("params", "lora_b")
    return y + adapter_product(x, lora_a, lora_b, inputs, module.dtype)


def _lecun_normal(inputs: int):
    """LeCun's normal initialisation for a kernel whose first ``inputs`` axes are contracted."""

    def init(key, shape, dtype):
        matrix = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
        return nn.initializers.lecun_normal()(key, matrix, dtype).reshape(shape)

    return init
