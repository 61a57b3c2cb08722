"""Frames that are looked at: in a notebook, and as one picture of many videos."""

import base64
import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from helios_jax.media.ffmpeg import MediaError
from helios_jax.media.output import staged
from helios_jax.media.video import open_video_writer

LEAST_WIDTH = 384
"""Pixels that a small video is shown with at least."""

MARGIN = 8
LINE = 16
"""Pixels around a row of a contact sheet, and of a line of its captions."""


def show(frames: UInt8[np.ndarray, "..."], *, fps: int | float = 24) -> None:
    """Show frames as a video that plays in the notebook's cell.

    Args:
      frames: [F, height, width, 3], or [B, F, height, width, 3] for one video beside another.
      fps: frames per second.

    Raises:
      MediaError: if this is no notebook, or the frames are no video.
    """
    notebook = sys.modules.get("IPython")  # imported already where there is one
    if notebook is None or notebook.get_ipython() is None:
        raise MediaError(
            "show plays frames in a notebook, and this is none: save_video(frames, 'video.mp4') "
            "writes a file"
        )
    display = importlib.import_module("IPython.display")
    display.display(display.HTML(video_html(frames, fps=fps)))


def video_html(frames: UInt8[np.ndarray, "..."], *, fps: int | float = 24) -> str:
    """An element of HTML for each video, with the mp4 in it."""
    if frames.ndim == 4:
        frames = frames[None]
    elements = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in frames:
            path = Path(folder, "clip.mp4")
            with open_video_writer(path, fps) as writer:
                writer.write(clip)
            data = base64.b64encode(path.read_bytes()).decode()
            width = max(LEAST_WIDTH, clip.shape[2])
            elements.append(
                f'<video controls autoplay loop muted playsinline width="{width}" '
                f'src="data:video/mp4;base64,{data}"></video>'
            )
    return "\n".join(elements)


def save_contact_sheet(
    path: str | os.PathLike,
    videos: Sequence[UInt8[np.ndarray, "F Y X 3"]],
    captions: Sequence[str],
    *,
    frames: int = 5,
) -> None:
    """Write one picture of many videos: a row for each, with frames from its beginning to its end
    and its caption below.

    Args:
      path: a .png or .jpg file.
      videos: of one size; they may differ in length.
      captions: one for each.
      frames: of each video.

    Raises:
      MediaError: if there is no video, or their sizes differ.
    """
    if not videos or len({video.shape[1:] for video in videos}) > 1:
        raise MediaError("a contact sheet needs videos, all of one size")
    height, width, _ = videos[0].shape[1:]
    row = height + MARGIN + LINE
    sheet_size = (frames * (width + MARGIN) + MARGIN, len(videos) * row + MARGIN)
    sheet = Image.new("RGB", sheet_size, "white")
    draw = ImageDraw.Draw(sheet)
    room = sheet_size[0] - 2 * MARGIN
    font = ImageFont.load_default(11)
    for number, (video, caption) in enumerate(zip(videos, captions, strict=True)):
        top = MARGIN + number * row
        for column, index in enumerate(np.linspace(0, len(video) - 1, frames).round().astype(int)):
            left = MARGIN + column * (width + MARGIN)
            sheet.paste(Image.fromarray(video[index]), (left, top))
        while draw.textlength(caption, font) > room:
            caption = f"{caption.rstrip(' .').rpartition(' ')[0]} ..."
        draw.text((MARGIN, top + height + 2), caption, "black", font)
    with staged(Path(os.path.abspath(path))) as partial:
        sheet.save(partial)
