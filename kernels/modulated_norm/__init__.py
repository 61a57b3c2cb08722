"""Layer norm with segment-wise modulation."""

from .api import modulated_layer_norm

__all__ = ["modulated_layer_norm"]
