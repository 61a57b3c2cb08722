"""Gated residual addition."""

from .reference import gated_residual

__all__ = ["gated_residual"]
