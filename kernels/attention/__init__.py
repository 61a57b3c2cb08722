"""Softmax attention over whole sequences, with an optional logit offset a key."""

from .api import attention
from .by_head import ATTENDED
from .padding import HIDDEN, padding_bias

__all__ = ["ATTENDED", "HIDDEN", "attention", "padding_bias"]
