"""Softmax attention over whole sequences, with an optional logit offset a key."""

from .api import attention
from .padding import HIDDEN, padding_bias

__all__ = ["HIDDEN", "attention", "padding_bias"]
