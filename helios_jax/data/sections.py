"""A section of a clip as the model is trained on it: what it learns, and what it sees."""

from typing import NamedTuple

import numpy as np

from helios_jax.data.errors import DataError
from helios_jax.types import Float

HISTORY_FRAMES = 19
"""Latent frames before a section that the model sees: 16, 2 and 1."""


class SectionWindow(NamedTuple):
    """A section and the past that the model sees of it; all float32.

    Attributes:
      history: the ``HISTORY_FRAMES`` frames before the section, oldest first; zero before the
        clip's beginning.
      target: the section.
      anchor: the clip's first frame; zero for its first section.
    """

    history: Float[np.ndarray, "h H W C"]
    target: Float[np.ndarray, "T H W C"]
    anchor: Float[np.ndarray, "1 H W C"]


def section_window(latents: Float[np.ndarray, "S T H W C"], section: int) -> SectionWindow:
    """A section of a clip with the past that the model sees.

    Args:
      latents: the clip's sections.
      section: which of them, 0 to S - 1.
    """
    frame = latents.shape[2:]
    history = np.zeros((HISTORY_FRAMES, *frame), np.float32)
    past = latents[:section].reshape(-1, *frame)[-HISTORY_FRAMES:]
    history[HISTORY_FRAMES - len(past) :] = past
    anchor = latents[0, :1].astype(np.float32)
    if section == 0:
        anchor = np.zeros_like(anchor)
    return SectionWindow(history, latents[section].astype(np.float32), anchor)


def pad_text(text: Float[np.ndarray, "n E"], rows: int, source: str) -> Float[np.ndarray, "S E"]:
    """Text features with zeros past the last token.

    Args:
      text: of the prompt's n tokens.
      rows: S.
      source: of the prompt, for the message.

    Raises:
      DataError: if n is larger than S.
    """
    check_text(len(text), rows, source)
    padded = np.zeros((rows, text.shape[1]), text.dtype)
    padded[: len(text)] = text
    return padded


def check_text(tokens: int, rows: int, source: str) -> None:
    """Refuse a prompt that is longer than the rows that batches have for it.

    Raises:
      DataError: naming both.
    """
    if tokens > rows:
        raise DataError(
            f"the prompt of {source} has {tokens} tokens and text_rows={rows}: raise "
            "data.text_rows, or shorten it"
        )
