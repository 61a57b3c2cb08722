"""What the prompts of a video become for the transformer, chunk by chunk."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from helios_jax.models.block import TextCache
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.sampling.chunk import apply
from helios_jax.sampling.prompts import PromptSchedule
from helios_jax.types import Array, Float, Int, Params

Features = tuple[Float[Array, "B S E"], Int[Array, "B"]]
"""Text features, zero past each prompt's last token, and the number of tokens."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def embed_text(
    model: HeliosTransformer,
    total: int,
    params: Params,
    features: Float[Array, "B S E"],
    lengths: Int[Array, "B"],
) -> TextCache:
    """Cross-attention keys and values of text features, padded to ``total`` tokens in effect."""
    return apply(model, params, "embed_text", features, lengths, total)


class PromptTexts:
    """Keys and values of a schedule's prompts.

    A prompt is encoded once, when it is first seen in the schedule, and forgotten when it is no
    longer in it. Mixtures are of features, padded to the rows of the longest prompt: beyond the
    longer of two prompts both are zero, so a mixture is a text of that length. Rows never become
    fewer, so the programs that read them stay the same from chunk to chunk.

    Attributes:
      rows: to which features are padded.
    """

    rows: int

    def __init__(
        self,
        encode: Callable[[str], Features],
        embed: Callable[..., TextCache],
        negatives: tuple[str, ...] = (),
        rows: int = 0,
    ):
        """Nothing is encoded yet.

        Args:
          encode: features of one prompt, a batch of 1.
          embed: keys and values of features and lengths.
          negatives: the negative prompts, which follow those of the schedule in every batch.
          rows: room to begin with.
        """
        self.rows = rows
        self._encode = encode
        self._embed = embed
        self._negatives = negatives
        self._features: dict[str, Features] = {}
        self._key: tuple | None = None
        self._cache: TextCache | None = None

    def __call__(self, schedule: PromptSchedule, chunk: int) -> TextCache:
        """Keys and values for a chunk; computed anew only where the text is not that of the chunk
        before.
        """
        schedule = schedule.since(chunk)
        wanted = dict.fromkeys([*schedule.prompts(), *self._negatives])
        self._features = {
            prompt: self._features.get(prompt) or self._encode(prompt) for prompt in wanted
        }
        self.rows = max(self.rows, *(features.shape[1] for features, _ in self._features.values()))
        mixture = schedule.at(chunk)
        if self._cache is None or self._key != (mixture, self.rows):
            self._key = (mixture, self.rows)
            self._cache = self._embed(*self._mix(mixture))
        return self._cache

    def _mix(self, mixture: tuple[tuple[tuple[str, ...], float], ...]) -> Features:
        """Features of a mixture of prompts; see :meth:`PromptSchedule.at`."""
        (first, _), *_ = mixture
        features, lengths = self._stack(first)
        for prompts, weight in mixture:
            features, lengths = _blend(
                features, lengths, *self._stack(prompts), jnp.float32(weight)
            )
        return features, lengths

    def _stack(self, prompts: tuple[str, ...]) -> Features:
        """Features of a batch: these prompts, then the negative ones."""
        features, lengths = zip(
            *(self._features[prompt] for prompt in (*prompts, *self._negatives))
        )
        padded = [jnp.pad(x, ((0, 0), (0, self.rows - x.shape[1]), (0, 0))) for x in features]
        return jnp.concatenate(padded), jnp.concatenate(lengths)


@jax.jit
def _blend(
    old: Float[Array, "B S E"],
    old_lengths: Int[Array, "B"],
    new: Float[Array, "B S E"],
    new_lengths: Int[Array, "B"],
    weight: Float[Array, ""],
) -> Features:
    """Features ``weight`` of the way from one text to another, in float32; exactly the other where
    weight is 1.
    """
    start = old.astype(jnp.float32)
    mixed = start + weight * (new.astype(jnp.float32) - start)
    features = jnp.where(weight < 1, mixed.astype(new.dtype), new)
    lengths = jnp.where(weight < 1, jnp.maximum(old_lengths, new_lengths), new_lengths)
    return features, lengths
