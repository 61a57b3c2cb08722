"""Reading and writing images and video."""

from helios_jax.media.excerpts import Excerpt
from helios_jax.media.ffmpeg import MediaError
from helios_jax.media.fit import FITS
from helios_jax.media.images import read_image
from helios_jax.media.latents import LatentsWriter, load_latents, save_latents
from helios_jax.media.live import LiveWriter, live_frames, open_live_writer, read_live_chunks
from helios_jax.media.output import (
    check_apart,
    check_file,
    check_output,
    check_rate,
    is_pipe,
    numbered,
    output_kind,
)
from helios_jax.media.video import VideoWriter, open_video_writer, save_video
from helios_jax.media.video_input import TooShortError, VideoInput, read_pieces, read_video
from helios_jax.media.viewing import save_contact_sheet, show

__all__ = [
    "FITS",
    "Excerpt",
    "LatentsWriter",
    "LiveWriter",
    "MediaError",
    "TooShortError",
    "VideoInput",
    "VideoWriter",
    "check_apart",
    "check_file",
    "check_output",
    "check_rate",
    "is_pipe",
    "live_frames",
    "load_latents",
    "numbered",
    "open_live_writer",
    "open_video_writer",
    "output_kind",
    "read_image",
    "read_live_chunks",
    "read_pieces",
    "read_video",
    "save_contact_sheet",
    "save_latents",
    "save_video",
    "show",
]
