"""Gated residual addition, alone or with the norm that follows it."""

from .api import gated_residual, gated_residual_norm

__all__ = ["gated_residual", "gated_residual_norm"]
