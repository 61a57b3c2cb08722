"""What the transformer makes of a timestep and of text features, and its output modulation."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from helios_jax.models.layers import Projection
from helios_jax.types import Array, DTypeLike, Float, Int


def sinusoids(
    timesteps: Float[Array, "rows"] | Int[Array, "rows"], channels: int
) -> Float[Array, "rows channels"]:
    """[cos(t f_k), sin(t f_k)] with f_k = exp(-ln(10000) k / (channels / 2)), in float32."""
    half = channels // 2
    # Exponents in float32, as PyTorch has them: t = 999 magnifies a rounding of the frequency a
    # thousand times.
    exponents = np.float32(-np.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeMLP(nn.Module):
    """linear_2(silu(linear_1(x))) in float32 throughout."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "rows channels"]) -> Float[Array, "rows D"]:
        hidden = nn.silu(Projection((self.width,), name="linear_1")(x))
        return Projection((self.width,), name="linear_2")(hidden)


class TextMLP(nn.Module):
    """linear_2(gelu_tanh(linear_1(x)))."""

    width: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S D"]:
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = nn.gelu(Projection((self.width,), name="linear_1", **dtypes)(x), approximate=True)
        return Projection((self.width,), name="linear_2", **dtypes)(hidden)


class OutputTable(nn.Module):
    """Learned shift and scale of the output head."""

    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "2 D"]:
        return self.param(
            "scale_shift_table",
            nn.initializers.normal(self.width**-0.5),
            (2, self.width),
            jnp.float32,
        )
