"""Animated images are videos."""

import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError

from .clips import counting, half_transparent, is_on_white, numbers, read


def animate(path, frames, milliseconds):
    """An animated image of frames [F, Y, X, 3 or 4]."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    own = {".webp": {"lossless": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}
    options = own.get(path.suffix, {})
    first.save(path, save_all=True, append_images=others, duration=milliseconds, **options)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif"])
def test_an_animated_image_is_a_video_of_all_its_frames(tmp_path, suffix):
    path = animate(tmp_path / f"a{suffix}", counting(40), 50)
    video = read(path, fps=20)
    assert numbers(video.tail).tolist() == list(range(7, 40))
    assert "animation, 40 frames in 2 s resampled to 20 fps: 40" in video.description
    faster = read(path, fps=30, piece=60)
    assert faster.num_frames == 60
    assert numbers(faster.tail)[::3].tolist() == list(range(0, 40, 2))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif"])
def test_a_transparent_animation_is_laid_on_white(tmp_path, suffix):
    frames = half_transparent(34)
    frames[:, 0, 0] = np.arange(34)[:, None]  # or equal frames would become one
    video = read(animate(tmp_path / f"a{suffix}", frames, 50), fps=20)
    assert is_on_white(video.first)
    assert "laid on white" in video.description


def test_a_damaged_animation_is_named(tmp_path):
    path = animate(tmp_path / "a.webp", counting(40), 50)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MediaError, match=r"a\.webp"):
        read(path)
