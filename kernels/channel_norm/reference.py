"""The norm over channels in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def channel_norm(
    x: Float[Array, "B T Y X C"],
    gamma: Float[Array, "C"],
    past: Float[Array, "B r Y X C"] | None = None,
    *,
    silu: bool = False,
    reach: int = 0,
    keep: bool = False,
) -> tuple[Float[Array, "B _ Y X C"], Float[Array, "B r Y X C"] | None]:
    """The frames and the last of them; see :func:`.api.channel_norm`."""
    gain = (x.shape[-1] ** 0.5 * gamma.astype(jnp.float32)).reshape(1, 1, 1, 1, -1)
    frames = scaled_unit(x.astype(jnp.float32), gain)
    if silu:
        frames = jax.nn.silu(frames)
    frames = frames.astype(x.dtype)
    if reach:
        if past is None:
            past = jnp.zeros_like(x, shape=(x.shape[0], reach, *x.shape[2:]))
        frames = jnp.concatenate([past, frames], axis=1)
    return frames, frames[:, frames.shape[1] - reach :] if keep else None


@jax.custom_vjp
def scaled_unit(
    x: Float[Array, "B T Y X C"], gain: Float[Array, "1 1 1 1 C"]
) -> Float[Array, "B T Y X C"]:
    """``gain * x / max(|x|, 1e-12)``, with a gradient that takes one sum over channels and keeps
    nothing larger than ``x``.
    """
    return _scaled_unit_forward(x, gain)[0]


def _scaled_unit_forward(x, gain):
    inverse = jax.lax.rsqrt(jnp.maximum(_sum_channels(x * x), 1e-24))
    return x * inverse * gain, (x, inverse, gain)


def _scaled_unit_backward(residuals, dy):
    x, inverse, gain = residuals
    unit = x * inverse
    d_unit = dy * gain
    d_gain = jnp.sum((dy * unit).reshape(-1, x.shape[-1]), axis=0).reshape(gain.shape)
    return inverse * (d_unit - unit * _sum_channels(d_unit * unit)), d_gain


scaled_unit.defvjp(_scaled_unit_forward, _scaled_unit_backward)


def _sum_channels(x):
    """The sum over the last axis, which stays.

    On a CPU it is a product with ones: XLA's sums along a short axis are slow there. On a GPU it is
    a pass of its own, so that what follows, the norm and SiLU, is computed where the result is
    copied behind the frames of the piece before; XLA would write and read it once more.
    """

    def product(x):
        return jnp.einsum("...c,c->...", x, jnp.ones(x.shape[-1], x.dtype))[..., None]

    def reduction(x):
        return jnp.sum(x, axis=-1, keepdims=True)

    def own_pass(x):
        return jax.lax.optimization_barrier(reduction(x))

    return jax.lax.platform_dependent(x, cpu=product, cuda=own_pass, default=reduction)
