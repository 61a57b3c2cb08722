"""Videos are read at the size and in the colours that the original reads them."""

import subprocess

import numpy as np
import pytest

from helios_jax.evaluation.bench import BenchError, Video
from helios_jax.evaluation.bench.readers import target_size
from helios_jax.media import open_video_writer
from helios_jax.media.ffmpeg import find_ffmpeg


@pytest.fixture
def clip(tmp_path):
    """Five frames of four flat colours each, 96x160 pixels, and their file."""
    colours = np.array([[220, 40, 30], [30, 200, 60], [40, 60, 210], [128, 128, 128]], np.uint8)
    frame = np.repeat(np.repeat(colours.reshape(2, 2, 3), 48, axis=0), 80, axis=1)
    with open_video_writer(tmp_path / "1_5_ori5.mp4", fps=24) as writer:
        writer.write(np.stack([frame] * 5))
    return tmp_path / "1_5_ori5.mp4", frame


@pytest.mark.parametrize(
    ("size", "target"),
    [((384, 640), (384, 640)), ((480, 832), (368, 640)), ((1920, 1080), (1136, 640))],
)
def test_every_video_gets_640_columns_and_keeps_its_proportions(size, target):
    assert target_size(*size) == target


@pytest.mark.parametrize("matrix", [None, "bt709", "smpte170m"])
def test_colours_come_back_from_a_file(matrix, clip):
    """By the matrix that the file names, or that of its size."""
    path, frame = clip
    if matrix:
        named = path.with_name("named.mp4")
        scale = f"scale=in_color_matrix=bt601:out_color_matrix={matrix}"
        options = ["-i", str(path), "-vf", scale, "-colorspace", matrix, str(named)]
        subprocess.run([find_ffmpeg(path), "-v", "error", *options], check=True)
        path = named
    frames = Video(path).frames
    assert frames.shape == (5, 384, 640, 3)
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        found = frames[2, int(y * 384), int(x * 640)].astype(int)
        assert np.abs(found - frame[int(y * 96), int(x * 160)]).max() <= 4


def test_a_short_video_is_cut_from_a_long_one(clip):
    assert len(Video(clip[0], most=3).frames) == 3


def test_the_rate_is_that_of_the_file(clip):
    assert Video(clip[0]).fps == 24.0


def test_opencv_reads_the_same_frames_by_its_own_conversion(clip):
    pytest.importorskip("cv2", reason="OpenCV, of the extra bench, is not installed")
    video = Video(clip[0])
    assert video.num_frames == 5
    difference = video.opencv_frames.astype(int) - video.frames
    assert np.abs(difference[:, 100:150, 100:200]).max() <= 3


def test_a_video_that_is_stored_turned_is_read_upright(clip):
    path, frame = clip
    turned = path.with_name("turned.mp4")
    options = ["-display_rotation", "90", "-i", str(path), "-c", "copy", str(turned)]
    subprocess.run([find_ffmpeg(path), "-v", "error", *options], check=True)
    frames = Video(turned).frames
    assert frames.shape == (5, 1066, 640, 3)  # 160x96
    upright = np.rot90(frame)
    found = frames[2, 200, 150].astype(int)
    assert np.abs(found - upright[30, 22]).max() <= 4


def test_a_folder_of_images_is_refused(tmp_path):
    with pytest.raises(BenchError, match="is a folder, and this metric reads video files"):
        len(Video(tmp_path).frames)


@pytest.mark.parametrize(("content", "message"), [(None, "is not a file"), (b"x" * 99, "damaged")])
def test_a_file_that_is_no_video_is_named(tmp_path, content, message):
    path = tmp_path / "1_5_ori5.mp4"
    if content:
        path.write_bytes(content)
    with pytest.raises(BenchError, match=rf"1_5_ori5\.mp4: {message}"):
        len(Video(path).frames)
