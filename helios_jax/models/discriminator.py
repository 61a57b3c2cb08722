"""The discriminator of stage 3 (Helios, section 3.3): heads on the critic's velocity and hidden
tokens, which tell data from what a student generates.
"""

import flax.linen as nn
import jax.numpy as jnp

from helios_jax.types import Array, DTypeLike, Float

GROUPS = 32
"""Of the group norms."""

LAYERS = (
    # Kernel and stride along time, rows and columns.
    ((3, 3, 3), (1, 1, 1)),
    ((4, 4, 4), (2, 2, 2)),
    ((4, 4, 4), (2, 2, 2)),
    ((3, 3, 3), (2, 1, 1)),
    ((3, 3, 3), (2, 1, 1)),
    ((1, 3, 3), (1, 1, 1)),
)
MIN_SIZE = 4
"""Rows and columns that the strides reduce to one; of fewer, nothing would be left."""

_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1 / sqrt(fan in) of 0, PyTorch's default."""


class Discriminator(nn.Module):
    """A head for the velocity, and one for the tokens after each hooked block.

    Attributes:
      width: channels of each head, a multiple of 32.
      dtype: of activations; parameters, group norms and logits are float32.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, velocity: Float[Array, "B T H W C"], hooked: list[Float[Array, "B T rows columns D"]]
    ) -> Float[Array, "B heads"]:
        """Logits, the velocity's first: large for what a head takes for a student's, small for what
        it takes for data.
        """
        heads = [
            Head(self.width, self.dtype, name=f"head_{i}")(x)
            for i, x in enumerate([velocity, *hooked])
        ]
        return jnp.stack(heads, axis=-1)


class Head(nn.Module):
    """Convolutions over time and space, the mean over all positions, and a logit.

    Fewer rows or columns than ``MIN_SIZE`` are padded with zeros.
    """

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T rows columns channels"]) -> Float[Array, "B"]:
        missing = [(0, max(MIN_SIZE - size, 0)) for size in x.shape[2:4]]
        x = jnp.pad(x.astype(self.dtype), [(0, 0), (0, 0), *missing, (0, 0)])
        for i, (kernel, stride) in enumerate(LAYERS):
            padding = [((size - 1) // 2, (size - 1) // 2) for size in kernel]
            settings = dict(dtype=self.dtype, kernel_init=_torch_uniform, name=f"conv_{i}")
            x = nn.Conv(self.width, kernel, stride, padding, **settings)(x)
            x = nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=jnp.float32, name=f"norm_{i}")(x)
            x = nn.silu(x).astype(self.dtype)
        pooled = x.astype(jnp.float32).mean((1, 2, 3))
        return nn.Dense(1, kernel_init=_torch_uniform, name="logit")(pooled)[:, 0]
