"""Softmax attention over whole sequences, with an optional logit offset a key."""

from .api import attention
from .padding import padding_bias

__all__ = ["attention", "padding_bias"]
