"""Layer norm and RMS norm."""

from .reference import layer_norm, rms_norm

__all__ = ["layer_norm", "rms_norm"]
