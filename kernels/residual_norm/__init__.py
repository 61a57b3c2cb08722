"""Residual addition, norm and modulation of tokens: five operations that one fused kernel computes.

    added  = x + gate · y
    normed = (added - mean) / √(variance + eps) · scale + shift      (layer norm)
           = added / √(mean square + eps) · scale + shift            (RMS norm)

All five are limited by memory bandwidth; the fused kernel reads and writes each token once.

A sequence is ``history`` history tokens followed by noisy ones. ``gate``, ``scale`` and ``shift``
have one row for each of these two segments, or one row for both.
"""

from .api import (
    gated_residual,
    gated_residual_norm,
    layer_norm,
    modulated_layer_norm,
    rms_norm,
)
from .fusion import Norm

__all__ = [
    "Norm",
    "gated_residual",
    "gated_residual_norm",
    "layer_norm",
    "modulated_layer_norm",
    "rms_norm",
]
