"""RMS norm of queries and keys fused with rotary embedding."""

from .reference import norm_rope_one as norm_rope

__all__ = ["norm_rope"]
