"""The adversarial half of stage 3: a discriminator on the critic's features, and its losses for
student and critic (Helios, section 3.3).

Logits are large for what a student generates and small for data. The discriminator sees windows of
half the rows and columns, a quarter of the tokens; of small frames larger ones, down to the fewest
patches that its heads reduce to one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.config import TransformerConfig
from helios_jax.models.discriminator import MIN_SIZE, Discriminator
from helios_jax.training.config import AdversarialConfig
from helios_jax.types import Array, Float, Int, Params, PRNGKeyArray


class AdversarialDraws(NamedTuple):
    """All that is random about a sample that the discriminator sees.

    Attributes:
      corner: first row and column of its window.
      noise: unit noise that is mixed with generated latents, for the student's loss.
      shift: unit noise by which data are moved, for the penalty.
    """

    corner: Int[Array, "2"]
    noise: Float[Array, "T H W C"]
    shift: Float[Array, "T H W C"]


def draw_adversarial(
    key: PRNGKeyArray, shape: tuple[int, int, int, int], patch: tuple[int, int, int]
) -> AdversarialDraws:
    """The draws of one sample of ``shape`` (T, H, W, C)."""
    corner_key, noise_key, shift_key = jax.random.split(key, 3)
    _, H, W, _ = shape
    rows, columns = window_size(H, W, patch)
    corners = jnp.array([H - rows + 1, W - columns + 1])
    return AdversarialDraws(
        jax.random.randint(corner_key, (2,), 0, corners),
        jax.random.normal(noise_key, shape),
        jax.random.normal(shift_key, shape),
    )


def window_size(rows: int, columns: int, patch: tuple[int, int, int]) -> tuple[int, int]:
    """Rows and columns of the discriminator's window: half as many, in whole patches, and at least
    ``MIN_SIZE`` patches where there are as many.
    """

    def half(size: int, patch: int) -> int:
        count = size // patch
        return max(count // 2, min(MIN_SIZE, count)) * patch

    return half(rows, patch[1]), half(columns, patch[2])


def crop(
    latents: Float[Array, "B T H W C"], corner: Int[Array, "B 2"], size: tuple[int, int]
) -> Float[Array, "B T rows columns C"]:
    """The window of each sample at its corner."""

    def cut(latents, corner):
        T, _, _, C = latents.shape
        return jax.lax.dynamic_slice(latents, (0, corner[0], corner[1], 0), (T, *size, C))

    return jax.vmap(cut)(latents, corner)


def student_loss(generated: Float[Array, "B heads"]) -> Float[Array, ""]:
    """``mean softplus(generated)`` of the logits of generated latents: small where they are taken
    for data.
    """
    return jnp.mean(jax.nn.softplus(generated))


def critic_loss(
    generated: Float[Array, "B heads"], data: Float[Array, "B heads"]
) -> Float[Array, ""]:
    """``mean softplus(-generated) + mean softplus(data)`` of the logits: small where the two are
    told apart.
    """
    return jnp.mean(jax.nn.softplus(-generated)) + jnp.mean(jax.nn.softplus(data))


def penalty(data: Float[Array, "B heads"], moved: Float[Array, "B heads"]) -> Float[Array, ""]:
    """Approximate R1 (Lin et al. 2025, adversarial post-training): the mean square of the change of
    the logits of data that are moved a little.
    """
    return jnp.mean((data - moved) ** 2)


def init_heads(
    key: PRNGKeyArray, config: AdversarialConfig, transformer: TransformerConfig
) -> Params:
    """Random parameters of the discriminator, empty where there is none; pure, may be traced."""
    if not config.width:
        return {}
    tokens = jnp.zeros((1, 1, 1, 1, transformer.width))
    velocity = jnp.zeros((1, 1, 1, 1, transformer.out_channels))
    return Discriminator(config.width).init(key, velocity, [tokens] * len(config.hooks))["params"]
