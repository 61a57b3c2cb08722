"""CLIP's image encoder (Radford et al. 2021) and LAION's head, which rates how good a frame looks.

A frame's rating is ``(w . f / |f| + b) / 10``, with f the encoder's features.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from helios_jax.evaluation.bench.networks.transformer import Transformer, layer_norm
from helios_jax.types import Array, DTypeLike, Float


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image or video encoder; by default those of ViT-L/14.

    Attributes:
      frames: of a video that is encoded at once; ViCLIP's alone.
    """

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    features: int = 768
    frames: int = 8

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2


class ImageEncoder(nn.Module):
    """Images to features: a class token before the patches, and what becomes of it.

    Attributes:
      config: sizes.
      dtype: in which to compute; norms and softmax are float32 regardless.
    """

    config: VisionConfig = VisionConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X 3"]) -> Float[Array, "B C"]:
        """Features, float32, of images that :mod:`~..preprocess` prepared."""
        config = self.config
        patches = PatchEmbedding(config, self.dtype, name="patch_embedding")(images)
        class_embedding = self.param("class_embedding", nn.initializers.normal(), (config.width,))
        positions = self.param(
            "position_embedding", nn.initializers.normal(), (1 + config.patches, config.width)
        )
        class_token = jnp.broadcast_to(class_embedding, (len(images), 1, config.width))
        tokens = jnp.concatenate([class_token, patches.astype(jnp.float32)], axis=1)
        return Trunk(config, self.dtype, name="trunk")(tokens + positions[None])


class PatchEmbedding(nn.Module):
    """Images to one token a patch, row by row."""

    config: VisionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X 3"]) -> Float[Array, "B N D"]:
        config = self.config
        size = (config.patch_size, config.patch_size)
        patches = nn.Conv(
            config.width,
            size,
            strides=size,
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(images.astype(self.dtype))
        return patches.reshape(len(images), config.patches, config.width)


class Trunk(nn.Module):
    """Tokens to the features of the first one: norm, blocks, norm, projection."""

    config: VisionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B C"]:
        config = self.config
        x = layer_norm(tokens, "ln_pre").astype(self.dtype)
        x = Transformer(config.layers, config.heads, dtype=self.dtype, name="transformer")(x)
        first = layer_norm(x[:, 0], "ln_post")
        projection = nn.Dense(config.features, use_bias=False, dtype=jnp.float32, name="proj")
        return projection(first)


class AestheticHead(nn.Module):
    """LAION's linear head on normalised features: a rating of 0 to 10, divided by 10."""

    @nn.compact
    def __call__(self, features: Float[Array, "B C"]) -> Float[Array, "B"]:
        rating = nn.Dense(1, name="linear")(normalized(features))
        return rating[:, 0] / 10


def normalized(features: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """Features of length 1."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)
