"""The video VAE's norm over channels, with what stands between it and the convolution behind it:
SiLU, and the frames of the piece before.

    y = √C · gamma · x / max(|x|, 1e-12),  frames = past, silu(y)

A convolution in time reads its own past in front of its frames, in one array. The fused kernel
writes the norm there, so that a clip is read once and written once.
"""

from .api import channel_norm

__all__ = ["channel_norm"]
