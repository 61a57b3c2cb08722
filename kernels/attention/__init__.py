"""Softmax attention over whole sequences, with an optional logit bias for each key."""

from .api import attention, check_implementation
from .by_head import ATTENTION_OUTPUT
from .padding import MASK_VALUE, padding_bias

__all__ = ["ATTENTION_OUTPUT", "MASK_VALUE", "attention", "check_implementation", "padding_bias"]
