"""Clips for the tests of reading, and what is seen in them."""

import subprocess

import imageio_ffmpeg
import numpy as np

from helios_jax.media import read_video

HEIGHT = 32

WIDTH = 64

LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")


def ffmpeg(*arguments, **options):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)],
        check=True,
        **options,
    )


def make(path, frames, fps=24, *options):
    """A file of ``frames`` [F, Y, X, 3]."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    ffmpeg(
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        size,
        "-r",
        fps,
        "-i",
        "-",
        *options,
        path,
        input=frames.tobytes(),
    )
    return path


def counting(count):
    """Frames that say which they are: the number's sixteens as grey on the left, its ones on the
    right.
    """
    frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    tens, ones = np.divmod(np.arange(count), 16)
    frames[:, :, : WIDTH // 2] = (10 + 12 * tens)[:, None, None, None]
    frames[:, :, WIDTH // 2 :] = (10 + 12 * ones)[:, None, None, None]
    return frames


def numbers(frames):
    """Which of :func:`counting` these are."""
    tens, ones = (
        np.rint((half.mean((1, 2, 3)) - 10) / 12).astype(int)
        for half in np.split(frames, 2, axis=2)
    )
    return 16 * tens + ones


def read(path, fps=24, height=HEIGHT, width=WIDTH, **options):
    return read_video(path, height, width, fps, **options)


def half_transparent(count):
    """Frames [F, Y, X, 4]: red on the left, at the top half of it; nothing, over black, right."""
    frames = np.zeros((count, HEIGHT, WIDTH, 4), np.uint8)
    frames[:, :, : WIDTH // 2] = (255, 0, 0, 255)
    frames[:, : HEIGHT // 2, : WIDTH // 2, 3] = 128
    return frames


def is_on_white(frame):
    """Whether :func:`half_transparent` was laid on white, within what a codec loses."""
    corners = frame[4, 4], frame[-4, 4], frame[4, -4]
    expected = ([255, 127, 127], [255, 0, 0], [255, 255, 255])
    return np.allclose(np.array(corners, int), expected, atol=12)
