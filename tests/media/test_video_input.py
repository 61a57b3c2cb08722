"""Any video becomes upright 8-bit RGB of the rate and size asked for: its first frame and its last
pieces, and what was done is said.
"""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError, TooShortError, read_image, read_pieces, video_input

from .clips import HEIGHT, LOSSLESS, WIDTH, counting, make, numbers, read


def test_first_and_last_frames(tmp_path):
    """Of 75 frames the last two pieces of 33, and frame 0, which is not among them."""
    video = read(make(tmp_path / "a.mp4", counting(75)))
    assert numbers(video.first[None]) == [0]
    assert numbers(video.tail).tolist() == list(range(9, 75))
    assert video.num_frames == 75
    assert video.tail.dtype == video.first.dtype == np.uint8
    assert video.description.endswith(
        "a.mp4: h264 video, 75 frames at 24 fps, the first and the last 66 used, 64x32"
    )


@pytest.mark.parametrize(("count", "kept"), [(33, 33), (65, 33), (66, 66), (99, 99), (140, 99)])
def test_whole_pieces_at_most_three(tmp_path, count, kept):
    """As many as there are, and never more than a history can hold."""
    video = read(make(tmp_path / "a.mkv", counting(count), 24, *LOSSLESS))
    assert numbers(video.first[None]) == [0]
    assert numbers(video.tail).tolist() == list(range(count - kept, count))


def test_work_and_memory_do_not_grow_with_the_length(tmp_path, monkeypatch):
    """Frames that are not kept are never converted: one and a piece of three hundred."""
    seen = []
    fit_image = video_input.fit_image
    monkeypatch.setattr(
        video_input, "fit_image", lambda *arguments: seen.append(0) or fit_image(*arguments)
    )
    video = read(make(tmp_path / "a.mp4", counting(300)), piece=12, pieces=1)
    assert numbers(video.tail).tolist() == list(range(288, 300))
    assert len(seen) == 13


def test_the_middle_of_a_long_video_is_not_decoded(tmp_path):
    """It may even be damaged."""
    path = make(tmp_path / "a.mp4", counting(240), 24, "-g", 12)
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 3, len(data) // 2)
    data[middle] = bytes(len(data[middle]))
    path.write_bytes(data)
    assert numbers(read(path, piece=20, pieces=1).tail).tolist() == list(range(220, 240))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "ts", "avi", "ogv", "h264"])
@pytest.mark.parametrize("fps", [10, 60])
def test_the_end_is_the_same_whether_it_was_searched_for_or_not(tmp_path, suffix, fps):
    noise = np.random.default_rng(0).integers(0, 256, (90, HEIGHT, WIDTH, 3), np.uint8)
    path = make(tmp_path / f"a.{suffix}", noise, 24, "-g", 15)
    num_frames, pieces = read_pieces(path, HEIGHT, WIDTH, fps, piece=1)
    tail = np.concatenate(list(pieces))[-10:]
    video = read(path, fps, piece=10, pieces=1)
    assert video.num_frames == num_frames
    np.testing.assert_array_equal(video.tail, tail)


@pytest.mark.parametrize(
    ("fps", "count", "resampled", "said"),
    [
        (25, 80, 77, "25 fps"),
        ("60000/1001", 301, 121, "59.94 fps"),
        (12, 40, 80, "12 fps"),
        ("24000/1001", 70, 70, "23.98 fps"),
    ],
)
def test_other_rates_are_resampled(tmp_path, fps, count, resampled, said):
    """Each instant shows a frame whose own time is not further away than half a frame of the
    coarser rate, and the description counts them.
    """
    video = read(make(tmp_path / "a.mp4", counting(count), fps), piece=resampled, pieces=1)
    rate = float(Fraction(fps))
    off = np.arange(resampled) / 24 - numbers(video.tail) / rate
    assert video.num_frames == resampled
    assert f"{said} resampled to 24: {count} frames -> {resampled}" in video.description
    assert off.max() <= max(0.5 / 24, 1 / rate) + 1e-3
    assert off.min() >= -0.5 / 24 - 1e-3


def test_the_rate_need_not_be_24(tmp_path):
    """Another model, another rate, also a broken one."""
    path = make(tmp_path / "a.mp4", counting(60), 30)
    assert numbers(read(path, 15, piece=30).tail).tolist() in (
        list(range(0, 60, 2)),
        list(range(1, 60, 2)),
    )
    assert read(path, 30000 / 1001, piece=12).num_frames == 60


def test_variable_rate(tmp_path):
    """24 frames in the first second and 8 in each that follows, as a screen recording has them:
    times count, not numbers.
    """
    slow = "setpts='if(lt(N,24),N,24+3*(N-24))/24/TB'"
    video = read(
        make(tmp_path / "a.mkv", counting(48), 24, "-vf", slow, "-fps_mode", "vfr", *LOSSLESS),
        piece=94,
        pieces=1,
    )
    shown = numbers(video.tail)
    assert shown[:24].tolist() == list(range(24))
    assert shown[24:].tolist() == [24 + i // 3 for i in range(70)]
    assert "48 frames -> 94" in video.description


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_frames_are_fitted_as_images_are(tmp_path, fit):
    """The same picture, as an image and as a video without loss, gives the same pixels and the same
    words.
    """
    picture = np.random.default_rng(0).integers(0, 256, (46, 62, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    pixels, description = read_image(tmp_path / "a.png", HEIGHT, WIDTH, fit)
    video = read(make(tmp_path / "a.mkv", np.repeat(picture[None], 33, 0), 24, *LOSSLESS), fit=fit)
    np.testing.assert_array_equal(video.tail, np.repeat(pixels[None], 33, 0))
    np.testing.assert_array_equal(video.first, pixels)
    assert video.description.endswith(description.partition("image, ")[2])


def test_too_short(tmp_path):
    """The error names what is there and what is needed, counted at the model's rate."""
    with pytest.raises(
        MediaError,
        match=r"a\.mp4: has 20 frame\(s\) at 24 fps; at least 33 are needed, 1\.38 seconds",
    ):
        read(make(tmp_path / "a.mp4", counting(40), 48))


def test_pieces_from_the_beginning(tmp_path):
    """All whole pieces in order, or the first few of them; what is left is dropped, and a clip that
    is too short says so by its kind.
    """
    path = make(tmp_path / "a.mp4", counting(75))
    num_frames, pieces = read_pieces(path, HEIGHT, WIDTH, 24)
    assert num_frames == 75
    assert [numbers(piece).tolist() for piece in pieces] == [list(range(33)), list(range(33, 66))]
    num_frames, pieces = read_pieces(path, HEIGHT, WIDTH, 24, piece=5)
    first = np.concatenate([numbers(next(pieces)) for _ in range(3)])
    assert (num_frames, first.tolist()) == (75, list(range(15)))
    with pytest.raises(TooShortError, match="at least 99 are needed"):
        read_pieces(path, HEIGHT, WIDTH, 24, least=99)
