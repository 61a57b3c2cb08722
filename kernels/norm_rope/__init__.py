"""RMS norm and rotary embedding of the joint query, key, value projection."""

from .api import norm_rope

__all__ = ["norm_rope"]
