"""Reading and writing images and video."""

from helios_jax.media.latents import load_latents, save_latents
from helios_jax.media.output import MediaError, check_output, numbered, output_kind
from helios_jax.media.video import VideoWriter, open_video_writer

__all__ = ["MediaError", "VideoWriter", "check_output", "load_latents", "numbered", "open_video_writer", "output_kind", "save_latents"]
