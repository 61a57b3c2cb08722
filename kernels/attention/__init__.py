"""Softmax attention over whole sequences, with an optional logit bias for each key."""

from .api import ATTENTION_OUTPUT, attention, check_implementation
from .padding import MASK_VALUE, padding_bias

__all__ = ["ATTENTION_OUTPUT", "MASK_VALUE", "attention", "check_implementation", "padding_bias"]
