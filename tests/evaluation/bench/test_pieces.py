"""Reading all frames of a video in its own size."""

import numpy as np
import pytest
from PIL import Image

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.pieces import count_frames, read_pieces
from helios_jax.media import open_video_writer


@pytest.fixture
def video(tmp_path):
    """70 frames of 32x48 pixels, each as bright as its number."""
    frames = np.empty((70, 32, 48, 3), np.uint8)
    frames[:] = np.arange(70, dtype=np.uint8)[:, None, None, None] * 3
    path = tmp_path / "clip.mp4"
    with open_video_writer(path, 24) as writer:
        writer.write(frames)
    return path


def test_every_frame_comes_once_and_in_order(video):
    pieces = list(read_pieces(video))
    assert [len(piece) for piece in pieces] == [33, 33, 4]
    bright = np.concatenate(pieces).mean((1, 2, 3))
    np.testing.assert_allclose(bright, 3 * np.arange(70), atol=2)


def test_no_more_frames_come_than_are_asked_for(video):
    assert sum(len(piece) for piece in read_pieces(video, most=40)) == 40


def test_reading_may_end_early(video):
    pieces = read_pieces(video, piece=5)
    assert len(next(pieces)) == 5
    pieces.close()


def test_a_folder_of_images_is_a_video(tmp_path):
    for number in (1, 0, 2):
        Image.new("RGB", (8, 6), (40 * number,) * 3).save(tmp_path / f"{number:05d}.png")
    (frames,) = read_pieces(tmp_path)
    assert frames.shape == (3, 6, 8, 3)
    assert frames[:, 0, 0, 0].tolist() == [0, 40, 80]


def test_images_of_two_sizes_are_no_video(tmp_path):
    for number in (1, 2):
        Image.new("RGB", (8 * number, 6)).save(tmp_path / f"{number}.png")
    with pytest.raises(BenchError, match="more than one size"):
        list(read_pieces(tmp_path))


def test_a_playlist_is_no_video(tmp_path, video):
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile '{video.name}'\n")
    with pytest.raises(BenchError, match="not a video, or in a format that is not read"):
        list(read_pieces(playlist))
    with pytest.raises(BenchError, match="damaged or not a video"):
        count_frames(playlist)


def test_frames_are_counted_without_decoding(video, tmp_path):
    assert count_frames(video) == 70
    images = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:])
    assert count_frames(tmp_path / "a.webp") == 3
    assert sum(map(len, read_pieces(tmp_path / "a.webp"))) == 3
    with pytest.raises(BenchError, match="is not a file"):
        count_frames(tmp_path / "missing.mp4")


def test_what_cannot_be_read_is_named(tmp_path, video):
    with pytest.raises(BenchError, match="is not a file"):
        list(read_pieces(tmp_path / "missing.mp4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="no frame"):
        list(read_pieces(tmp_path / "empty"))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(BenchError, match="damaged, cut short, or not a video"):
        list(read_pieces(text))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:300])
    with pytest.raises(BenchError, match="damaged, cut short, or not a video"):
        list(read_pieces(cut))
