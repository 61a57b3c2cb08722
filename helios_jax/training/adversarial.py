"""The adversarial half of stage 3: a discriminator on the critic's features, and what student and
critic lose by it (Helios, section 3.3).

Logits are large for what a student makes and small for data. The discriminator sees windows of half
the rows and columns, a quarter of the tokens; of small frames larger ones, down to the fewest that
its heads reduce to one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.config import TransformerConfig
from helios_jax.models.discriminator import MIN_SIZE, Discriminator
from helios_jax.training.config import AdversarialConfig
from helios_jax.types import Array, Float, Int, Params, PRNGKeyArray


class AdversarialDraws(NamedTuple):
    """All that is random about a sample before the discriminator.

    Attributes:
      corner: first row and column of its window.
      noise: with which the student's data are noised, for the student's loss.
      shift: unit noise by which data are moved for the penalty.
    """

    corner: Int[Array, "2"]
    noise: Float[Array, "T H W C"]
    shift: Float[Array, "T H W C"]


def draw_adversarial(
    key: PRNGKeyArray, shape: tuple[int, int, int, int], patch: tuple[int, int, int]
) -> AdversarialDraws:
    """The draws of one sample of ``shape`` (T, H, W, C)."""
    corner, noise, shift = jax.random.split(key, 3)
    _, H, W, _ = shape
    rows, columns = window(H, W, patch)
    corners = jnp.array([H - rows + 1, W - columns + 1])
    return AdversarialDraws(
        jax.random.randint(corner, (2,), 0, corners),
        *(jax.random.normal(key, shape) for key in (noise, shift)),
    )


def window(rows: int, columns: int, patch: tuple[int, int, int]) -> tuple[int, int]:
    """Rows and columns of half as many, in whole patches: at least ``MIN_SIZE`` of them where there
    are as many.
    """
    patches = ((size // p, p) for size, p in zip((rows, columns), patch[1:]))
    return tuple(max(count // 2, min(MIN_SIZE, count)) * p for count, p in patches)


def crop(
    latents: Float[Array, "B T H W C"], corner: Int[Array, "B 2"], size: tuple[int, int]
) -> Float[Array, "B T rows columns C"]:
    """The window of each sample at its corner."""
    return jax.vmap(
        lambda x, at: jax.lax.dynamic_slice(
            x, (0, at[0], at[1], 0), (x.shape[0], *size, x.shape[3])
        )
    )(latents, corner)


def student_loss(logits: Float[Array, "B heads"]) -> Float[Array, ""]:
    """Small where what the student makes is taken for data: ``mean softplus(logit)``."""
    return jnp.mean(jax.nn.softplus(logits))


def critic_loss(made: Float[Array, "B heads"], data: Float[Array, "B heads"]) -> Float[Array, ""]:
    """Small where the two are told apart: ``mean softplus(-made) + mean softplus(data)``."""
    return jnp.mean(jax.nn.softplus(-made)) + jnp.mean(jax.nn.softplus(data))


def penalty(data: Float[Array, "B heads"], moved: Float[Array, "B heads"]) -> Float[Array, ""]:
    """Approximate R1 (Lin et al. 2025, adversarial post-training): the mean square of the change of
    the logits of data that are moved a little.
    """
    return jnp.mean((data - moved) ** 2)


def init_heads(
    key: PRNGKeyArray, config: AdversarialConfig, transformer: TransformerConfig
) -> Params:
    """Random parameters of the discriminator; none where there is none. Pure, may be traced."""
    if not config.width:
        return {}
    tokens = jnp.zeros((1, 1, 1, 1, transformer.width))
    velocity = jnp.zeros((1, 1, 1, 1, transformer.out_channels))
    return Discriminator(config.width).init(key, velocity, [tokens] * len(config.hooks))["params"]
