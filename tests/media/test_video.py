"""Video files hold the frames that were written, appear whole, and leave nothing behind when they
fail.
"""

import os
import re
import subprocess

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError, open_video_writer


@pytest.fixture(scope="module")
def clip():
    """33 smooth, moving frames of 96x160 pixels."""
    t, y, x = np.mgrid[:33, :96, :160]
    channels = [127 + 120 * np.sin(x / 30 + t / 5), 127 + 120 * np.cos(y / 20 - t / 7), 40 + 3 * t]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write(path, clip, fps=24, then=lambda: None, **options):
    """In two chunks of different length, and ``then`` something before the end."""
    write_chunks(path, [clip[:12], clip[12:]], fps, then, **options)


def write_chunks(path, chunks, fps=24, then=lambda: None, **options):
    with open_video_writer(path, fps, **options) as writer:
        for chunk in chunks:
            writer.write(chunk)
        then()


def read_mp4(path):
    """Frames as ffmpeg decodes them, and how it describes the stream. (imageio's reader leaves
    pipes open, which is an error here.)
    """
    options = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, *options], capture_output=True, check=True
    )
    stream = re.search(r"Stream #0:0.*Video: (.*)", done.stderr.decode())[1]
    width, height = map(int, re.search(r", (\d+)x(\d+)", stream).groups())
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), stream


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("fps", [24, 16, 30000 / 1001])
def test_mp4(tmp_path, clip, fps):
    """Number of frames, size and rate exactly, frames nearly."""
    write(tmp_path / "clip.mp4", clip, fps)
    read, stream = read_mp4(tmp_path / "clip.mp4")
    assert read.shape == clip.shape
    assert psnr(read, clip) > 38
    assert min(psnr(a, b) for a, b in zip(read, clip)) > 36
    assert float(re.search(r"([\d.]+) fps", stream)[1]) == pytest.approx(
        fps, abs=0.01
    )  # two digits are printed
    assert stream.startswith("h264")
    assert "yuv420p(tv, smpte170m" in stream


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 30)])
def test_mp4_keeps_colors(tmp_path, color):
    """What is converted to YUV and back is off by rounding, not by another matrix."""
    write(tmp_path / "clip.mp4", np.full((16, 32, 32, 3), color, np.uint8))
    assert np.abs(read_mp4(tmp_path / "clip.mp4")[0].astype(int) - color).max() <= 3


def test_mp4_of_any_even_size_is_not_resized(tmp_path, clip):
    """Sizes that are no multiples of 16 are kept."""
    write(tmp_path / "clip.mp4", clip[:, :90, :158])
    assert read_mp4(tmp_path / "clip.mp4")[0].shape == (33, 90, 158, 3)


def test_gif(tmp_path, clip):
    """All frames, endless, with delays that add up to the rate although each is a whole number of
    hundredths.
    """
    write(tmp_path / "clip.gif", clip)
    assert psnr(iio.imread(tmp_path / "clip.gif"), clip) > 30
    with Image.open(tmp_path / "clip.gif") as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (33, (160, 96), 0)
        delays = []
        for i in range(image.n_frames):
            image.seek(i)
            delays.append(image.info["duration"])
    assert abs(sum(delays) - 33 / 24 * 1000) <= 10
    assert set(delays) == {40, 50}


@pytest.mark.parametrize("name", ["frames", "frames/", "v1.5/", "50%d off/"])
def test_png_folder(tmp_path, clip, name):
    """Numbered images, equal to what was written, of any size and at any path."""
    write(f"{tmp_path}/{name}", clip[:, :95, :159])
    files = sorted((tmp_path / name).iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(33)]
    np.testing.assert_array_equal([iio.imread(file) for file in files], clip[:, :95, :159])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames"])
def test_nothing_appears_before_the_end(tmp_path, clip, name):
    """While a result is made it is hidden; when it is interrupted, nothing is left."""

    def interrupt():
        assert len(list(tmp_path.iterdir())) == 1
        assert all(entry.name.startswith(".") for entry in tmp_path.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / name, clip, then=interrupt)
    assert not list(tmp_path.iterdir())


def test_failure_keeps_the_older_file(tmp_path, clip):
    """An mp4 is replaced only by a whole one."""

    def fail():
        raise ZeroDivisionError

    (tmp_path / "clip.mp4").write_text("older")
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "clip.mp4", clip, then=fail)
    assert (tmp_path / "clip.mp4").read_text() == "older"
    write(tmp_path / "clip.mp4", clip)
    assert read_mp4(tmp_path / "clip.mp4")[0].shape == clip.shape


def test_folder_is_overwritten_only_on_request(tmp_path, clip):
    """An older, longer folder of images is an error, or replaced whole."""
    write(tmp_path / "frames", clip)
    with pytest.raises(MediaError, match="is not empty"):
        write(tmp_path / "frames", clip[:5])
    write(tmp_path / "frames", clip[:15], overwrite=True)
    assert len(list((tmp_path / "frames").iterdir())) == 15
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_other_files_is_never_overwritten(tmp_path, clip, overwrite):
    """Not even when the other file comes while the video is made."""

    def intrude():
        (tmp_path / "frames").mkdir()
        (tmp_path / "frames/notes.txt").touch()

    with pytest.raises(MediaError, match=r"notes\.txt|not empty"):
        write(tmp_path / "frames", clip, then=intrude, overwrite=overwrite)
    assert [entry.name for entry in (tmp_path / "frames").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), r"uint8 \[F, Y, X, 3\], not float32"),
        (np.zeros((16, 16, 3), np.uint8), r"not uint8 \[16, 16, 3\]"),
        (np.zeros((2, 15, 16, 3), np.uint8), "even sides, not 16x15"),
    ],
)
def test_bad_frames_are_refused(tmp_path, frames, message):
    """Another type or shape, odd sides, or nothing at all; no file is left."""
    with pytest.raises(MediaError, match=message):
        write_chunks(tmp_path / "clip.mp4", [frames])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunks", [[], [np.zeros((0, 16, 16, 3), np.uint8)]])
def test_no_frames_are_an_error(tmp_path, chunks):
    """A video without frames is not a file."""
    with pytest.raises(MediaError, match="no frame was written"):
        write_chunks(tmp_path / "clip.mp4", chunks)
    assert not list(tmp_path.iterdir())


def test_size_must_not_change(tmp_path, clip):
    """A second chunk of another size is an error, not a resized one."""
    with pytest.raises(MediaError, match="80x96 pixels after frames of 160x96"):
        write_chunks(tmp_path / "clip.mp4", [clip, clip[:, :, :80]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "fps"),
    [("clip.mp4", 0), ("clip.mp4", -1.0), ("clip.mp4", float("nan")), ("clip.gif", 60)],
)
def test_bad_rates_are_refused(tmp_path, name, fps):
    """A GIF's delays are too coarse above 50 frames a second."""
    with pytest.raises(MediaError, match=f"fps={fps}"):
        write_chunks(tmp_path / name, [], fps)


@pytest.mark.parametrize("when", ["while writing", "at the end"])
def test_a_failing_ffmpeg_is_reported(tmp_path, clip, monkeypatch, when):
    """At once, with its message and status; a broken video never appears."""
    script = tmp_path / "ffmpeg"
    script.write_text(
        "#!/bin/sh\n"
        + ("cat >/dev/null\n" if when == "at the end" else "")
        + "echo disk on fire >&2\nexit 3\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    (tmp_path / "out").mkdir()
    with pytest.raises(MediaError, match="status 3: disk on fire"):
        write(
            tmp_path / "out/clip.mp4",
            clip,
            then=lambda: when == "at the end" or pytest.fail("went on writing"),
        )
    assert not list((tmp_path / "out").iterdir())


def test_latents_are_no_video(tmp_path):
    """A path for latents is not taken for a video."""
    with pytest.raises(MediaError, match="hold no video"):
        write_chunks(tmp_path / "x.safetensors", [])


def test_pipes_are_not_replaced(tmp_path):
    """A whole file cannot take the place of a pipe; the error says what can."""
    os.mkfifo(tmp_path / "a.mp4")
    for path in (tmp_path / "a.mp4", "-"):
        with pytest.raises(MediaError, match="write it live"):
            write_chunks(path, [])
    assert (tmp_path / "a.mp4").is_fifo()
