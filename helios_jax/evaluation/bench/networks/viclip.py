"""ViCLIP (Wang et al. 2023, InternVid): features of a video and of a text that can be compared.

The video encoder is CLIP's with one class token before the patches of all frames, full attention
over them, and an embedding of time. The text encoder is CLIP's with a context of 32 tokens.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from helios_jax.evaluation.bench.networks.clip import PatchEmbedding, Trunk, VisionConfig
from helios_jax.evaluation.bench.networks.transformer import Transformer, layer_norm
from helios_jax.types import Array, DTypeLike, Float, Int


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder; by default ViCLIP-L/14's."""

    vocab_size: int = 49408
    context: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    features: int = 768


class VideoEncoder(nn.Module):
    """Eight frames to features.

    Attributes:
      config: sizes.
      dtype: in which to compute; norms and softmax are float32 regardless.
    """

    config: VisionConfig = VisionConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, videos: Float[Array, "B F Y X 3"]) -> Float[Array, "B C"]:
        """Features, float32, of frames that :mod:`~..preprocess` prepared."""
        config = self.config
        batch, frames = videos.shape[:2]
        images = videos.reshape(batch * frames, *videos.shape[2:])
        patches = PatchEmbedding(config, self.dtype, name="patch_embedding")(images)
        patches = patches.reshape(batch, frames, config.patches, config.width)
        normal = nn.initializers.normal()
        class_embedding = self.param("class_embedding", normal, (config.width,))
        positions = self.param("position_embedding", normal, (1 + config.patches, config.width))
        times = self.param("temporal_embedding", normal, (config.frames, config.width))
        patches = patches + positions[None, None, 1:] + times[None, :frames, None]
        patches = patches.reshape(batch, frames * config.patches, config.width)
        class_token = jnp.broadcast_to(class_embedding + positions[0], (batch, 1, config.width))
        tokens = jnp.concatenate([class_token, patches.astype(jnp.float32)], axis=1)
        return Trunk(config, self.dtype, name="trunk")(tokens)


class TextEncoder(nn.Module):
    """Token ids to features: what becomes of the end token, which has the largest id.

    Attributes:
      config: sizes.
      dtype: in which to compute; norms and softmax are float32 regardless.
    """

    config: TextConfig = TextConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B S"]) -> Float[Array, "B C"]:
        """Features, float32."""
        config = self.config
        embedding = nn.Embed(config.vocab_size, config.width, name="token_embedding")
        positions = self.param(
            "position_embedding", nn.initializers.normal(), (config.context, config.width)
        )
        x = (embedding(ids) + positions[None, : ids.shape[1]]).astype(self.dtype)
        x = Transformer(
            config.layers, config.heads, causal=True, dtype=self.dtype, name="transformer"
        )(x)
        x = layer_norm(x, "ln_final")
        last = jnp.take_along_axis(x, ids.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        projection = nn.Dense(config.features, use_bias=False, dtype=jnp.float32, name="proj")
        return projection(last)
