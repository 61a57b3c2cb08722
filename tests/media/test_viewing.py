"""Frames on disk, in a notebook, and many videos as one picture."""

import base64
import re

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError, save_contact_sheet, save_video, show
from helios_jax.media.viewing import video_html

CLIP = np.broadcast_to(np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None], (5, 32, 64, 3))


def test_one_video_has_the_name_and_several_are_numbered(tmp_path):
    assert save_video(CLIP, tmp_path / "a.mp4") == [str(tmp_path / "a.mp4")]
    several = save_video(np.stack([CLIP, CLIP]), tmp_path / "b.gif")
    assert several == [str(tmp_path / "b_0.gif"), str(tmp_path / "b_1.gif")]
    frames = iio.imread(several[1])
    np.testing.assert_allclose(frames[:, 0, 0, 0].astype(int), CLIP[:, 0, 0, 0], atol=2)


def test_a_notebook_gets_a_video_element_for_each_video():
    html = video_html(np.stack([CLIP, CLIP]))
    videos = re.findall(r"<video [^>]*base64,([^\"]+)", html)
    assert len(videos) == 2
    assert base64.b64decode(videos[0])[4:8] == b"ftyp"


def test_outside_a_notebook_show_says_what_to_do():
    with pytest.raises(MediaError, match=r"save_video\(frames, 'video.mp4'\)"):
        show(CLIP)


def test_a_contact_sheet_shows_each_video_from_its_beginning_to_its_end(tmp_path):
    save_contact_sheet(tmp_path / "sheet.png", [CLIP, CLIP[::-1]], ["a", "b " * 500], frames=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (32 + 8 + 16) + 8, 3 * (64 + 8) + 8, 3)
    assert [sheet[20, x, 0] for x in (20, 92, 164)] == [0, 100, 200]
    assert [sheet[76, x, 0] for x in (20, 92, 164)] == [200, 100, 0]
