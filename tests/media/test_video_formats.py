"""Videos as cameras and programs write them: containers, codecs, colours, turned, transparent."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from helios_jax.media import Excerpt, read_image, read_pieces, read_video
from helios_jax.media.matroska import is_cut_short

from .clips import (
    HEIGHT,
    LOSSLESS,
    WIDTH,
    counting,
    ffmpeg,
    half_transparent,
    is_on_white,
    make,
    numbers,
    read,
)


@pytest.mark.parametrize("order", [("0", "1"), ("1", "0")])
def test_sound_is_left_alone(tmp_path, order):
    """Before or after the video in the file, and longer than it."""
    silent = make(tmp_path / "silent.mp4", counting(40))
    first, second = order
    maps = ["-map", first, "-map", second]
    ffmpeg(
        "-i",
        silent,
        "-f",
        "lavfi",
        "-i",
        "sine=duration=3",
        *maps,
        "-c:v",
        "copy",
        tmp_path / "a.mp4",
    )
    assert numbers(read(tmp_path / "a.mp4").tail).tolist() == list(range(7, 40))


@pytest.mark.parametrize(
    "name",
    [
        "a.mov",
        "a.webm",
        "a.avi",
        "a.ts",
        "a.gif",
        "50%d off.mp4",
        "-i.mp4",
        "http:a.mp4",
        "a 'b' [c];d.mp4",
    ],
)
def test_any_container_and_any_name(tmp_path, name, monkeypatch):
    """Nothing in a name means something to ffmpeg."""
    make(tmp_path / f"made{Path(name).suffix}", counting(40)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(read(name).tail).tolist() == list(range(7, 40))


def test_rotation(tmp_path):
    """A telephone held upright: the frames are, too, and their size is counted upright."""
    make(tmp_path / "made.mp4", counting(33))
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "made.mp4", "-c", "copy", tmp_path / "a.mp4")
    video = read(tmp_path / "a.mp4", height=WIDTH, width=HEIGHT)
    assert numbers(np.rot90(video.tail, -1, (1, 2))).tolist() == list(range(33))
    assert "32x64" in video.description


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_mirrored_video_is_read_as_ffmpeg_shows_it(tmp_path, turned):
    """As front cameras write them."""
    frames = np.random.default_rng(0).integers(0, 256, (33, 1, 1, 3), np.uint8)
    frames = np.repeat(np.repeat(frames, HEIGHT, 1), WIDTH, 2)
    frames[:, : HEIGHT // 4, : WIDTH // 4] = 0
    make(tmp_path / "made.mkv", frames, 24, *LOSSLESS)
    turn = ["-display_rotation", turned, "-display_hflip", "-i", tmp_path / "made.mkv"]
    ffmpeg(*turn, "-c", "copy", tmp_path / "a.mkv")
    ffmpeg("-i", tmp_path / "a.mkv", *LOSSLESS, tmp_path / "shown.mkv")
    size = (HEIGHT, WIDTH) if turned % 180 == 0 else (WIDTH, HEIGHT)
    shown, found = (read(tmp_path / name, 24, *size) for name in ("shown.mkv", "a.mkv"))
    np.testing.assert_array_equal(found.tail, shown.tail)


def test_pixels_that_are_not_square(tmp_path):
    """A fit is chosen by what is seen: 64x32 pixels of double width are 128x32."""
    video = read(
        make(tmp_path / "a.mp4", counting(33), 24, "-vf", "setsar=2"), height=32, width=128
    )
    assert "128x32" in video.description
    assert "cropped" not in video.description


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv444p"])
@pytest.mark.parametrize(
    ("matrix", "colors"),
    [("bt709", "tv"), ("bt709", "pc"), ("smpte170m", "tv"), ("bt2020nc", "tv")],
)
def test_colors(tmp_path, matrix, colors, pixels):
    """The matrix and range that the file names are undone, of 8 bits and of 10: off by rounding,
    not by another matrix.
    """
    color = np.array([200, 120, 30], np.uint8)
    convert = (
        f"scale=out_color_matrix={matrix.replace('nc', '')}:out_range={colors},format={pixels}"
    )
    path = make(
        tmp_path / "a.mp4",
        np.tile(color, (33, 32, 64, 1)),
        24,
        "-vf",
        convert,
        "-qp",
        "4",
        "-colorspace",
        matrix,
        "-color_range",
        colors,
    )
    assert np.abs(read(path).tail.astype(int) - color).max() <= 3


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range(tmp_path, transfer):
    """A grey card is as bright as in an ordinary video (41 %; ITU-R BT.2408 puts it at 38 % of both
    signals), and what was done is said.
    """
    grey = f"format=yuv420p10le,geq=lum={round(64 + 876 * 0.38)}:cb=512:cr=512"
    tags = f"setparams=color_trc={transfer}:color_primaries=bt2020:colorspace=bt2020nc:range=tv"
    video = read(make(tmp_path / "a.mp4", counting(33), 24, "-vf", f"{grey},{tags}"))
    assert np.abs(video.tail.astype(int) - 104).max() <= 4
    assert f"high dynamic range ({transfer}) tone-mapped" in video.description


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "libx265"),
        ("mov", "prores"),
        ("mkv", "ffv1"),
        ("webm", "libvpx-vp9"),
        ("webm", "libvpx"),
        ("avi", "mjpeg"),
        ("avi", "mpeg4"),
        ("ts", "mpeg2video"),
        ("mpg", "mpeg1video"),
        ("flv", "flv"),
        ("ogv", "libtheora"),
        ("wmv", "wmv2"),
        ("gif", "gif"),
        ("apng", "apng"),
    ],
)
def test_containers_and_codecs_that_people_have_are_read(tmp_path, suffix, codec):
    path = make(tmp_path / f"a.{suffix}", counting(40), 24, "-c:v", codec)
    assert read_video(path, HEIGHT, WIDTH, 24).num_frames >= 33


@pytest.mark.parametrize(
    "file",
    [
        "a.mov -c:v qtrle",
        "a.mov -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
        "a.mkv -c:v ffv1 -pix_fmt bgra",
        "a.webm -c:v libvpx-vp9 -pix_fmt yuva420p -crf 10",
        "a.webm -c:v libvpx -pix_fmt yuva420p -auto-alt-ref 0 -crf 4 -b:v 4M",
    ],
)
def test_a_transparent_video_is_laid_on_white_as_an_image_is(tmp_path, file, caplog):
    name, *options = file.split()
    path = tmp_path / name
    size = f"{WIDTH}x{HEIGHT}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", size, "-r", 24, "-i", "-"]
    ffmpeg(*source, *options, path, input=half_transparent(33).tobytes())
    video = read(path)
    assert is_on_white(video.first)
    assert "what is transparent laid on white" in video.description
    _, pieces = read_pieces(path, HEIGHT, WIDTH, 24)
    assert is_on_white(next(pieces)[0])
    assert "laid on white" in caplog.text
    Image.fromarray(half_transparent(1)[0]).save(tmp_path / "a.png")
    image, said = read_image(tmp_path / "a.png", HEIGHT, WIDTH)
    assert is_on_white(image)
    assert "laid on white" in said


def test_frames_that_are_only_referred_to_are_not_counted(tmp_path):
    """VP8 stores them as packets of their own."""
    path = tmp_path / "a.webm"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x32:r=24:d=3,noise=alls=20:allf=t"]
    options = ["-c:v", "libvpx", "-auto-alt-ref", 1, "-lag-in-frames", 25, "-b:v", "150k"]
    for number in (1, 2):
        ffmpeg(*source, *options, "-passlogfile", tmp_path / "log", "-pass", number, path)
    with av.open(path) as container:
        assert sum(packet.size > 0 for packet in container.demux()) > 72
    assert "vp8 video, 72 frames at 24 fps" in read(path).description
    excerpt = Excerpt((10, 72))
    num_frames, pieces = read_pieces(path, HEIGHT, WIDTH, 24, piece=10, least=62, excerpt=excerpt)
    assert (num_frames, len(list(pieces))) == (62, 6)


def test_a_file_that_is_written_live_does_not_say_how_long_it_is(tmp_path):
    path = tmp_path / "a.mkv"
    with path.open("wb") as file:
        source = make(tmp_path / "made.mkv", counting(40), 24, *LOSSLESS)
        ffmpeg("-i", source, "-c", "copy", "-f", "matroska", "-", stdout=file)
    assert not is_cut_short(path)
    assert numbers(read(path).tail).tolist() == list(range(7, 40))
    path.write_bytes(path.read_bytes()[:-2000])
    assert 8 < read(path, piece=8).num_frames < 40
