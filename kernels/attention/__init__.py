"""Softmax attention over whole sequences, with an optional logit offset a key."""

from .reference import attention

__all__ = ["attention"]
