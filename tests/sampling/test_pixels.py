"""What a video may start from: files, images and arrays of any size."""

import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError, open_video_writer
from helios_jax.sampling.pixels import image_pixels, video_pixels
from helios_jax.sampling.request import make_request

from .conftest import TOY

REQUEST = make_request(TOY)
PIXELS = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)


def test_a_file_an_image_and_an_array_of_it_are_the_same(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS):
        np.testing.assert_array_equal(image_pixels(image, REQUEST), PIXELS[None])
    np.testing.assert_array_equal(image_pixels(PIXELS[None], REQUEST), PIXELS[None])


@pytest.mark.parametrize("size", [(32, 64), (50, 77), (300, 100)])
def test_an_array_of_another_size_is_brought_to_the_videos(size):
    given = np.full((*size, 3), 77, np.uint8)
    found = image_pixels(given, REQUEST)
    assert found.shape == (1, 64, 128, 3)
    assert (found == 77).all()


def test_a_list_has_one_image_for_each_video(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    found = image_pixels([tmp_path / "a.png", PIXELS[::-1]], REQUEST)
    np.testing.assert_array_equal(found, np.stack([PIXELS, PIXELS[::-1]]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"cat\.png: No such file"):
        image_pixels(tmp_path / "cat.png", REQUEST)


def test_a_video_may_be_a_file_or_one_clip_of_any_size(tmp_path):
    clip = np.broadcast_to(PIXELS[::2, ::2], (40, 32, 64, 3))
    with open_video_writer(tmp_path / "a.mp4", 24) as writer:
        writer.write(clip)
    assert video_pixels(tmp_path / "a.mp4", REQUEST).shape == (1, 34, 64, 128, 3)
    assert video_pixels(clip, REQUEST).shape == (1, 40, 64, 128, 3)
