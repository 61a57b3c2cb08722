"""Any video becomes upright 8-bit RGB of the rate and size asked for: its first frame and its last
pieces, and what was done is said.
"""

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from helios_jax.media import (
    MediaError,
    TooShortError,
    read_image,
    read_pieces,
    read_video,
    video_input,
)

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


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mp4", ["-movflags", "+faststart"]), ("b.mp4", []), ("a.mkv", []), ("a.avi", [])],
)
def test_truncated_files_are_refused(tmp_path, name, options):
    """Although enough frames could be read: the end, which counts, is missing."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 64, 3), np.uint8)
    path = make(tmp_path / name, noise, 24, *options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    with pytest.raises(MediaError, match=f"{name}: damaged, cut short, or not a video: ."):
        read(path)


def test_what_is_no_video_is_refused(tmp_path):
    """Missing, a folder, empty, text, sound alone, or sound with a picture on its cover."""
    path = tmp_path / "a.mp4"
    with pytest.raises(MediaError, match=r"a\.mp4: No such file"):
        read(path)
    with pytest.raises(MediaError, match="is not a file"):
        read(tmp_path)
    for content in (b"", b"a red ball"):
        path.write_bytes(content)
        with pytest.raises(MediaError, match="not a video"):
            read(path)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=2", path)
    with pytest.raises(MediaError, match="has no video in it"):
        read(path)
    Image.new("RGB", (32, 32)).save(tmp_path / "cover.png")
    ffmpeg(
        "-i",
        path,
        "-i",
        tmp_path / "cover.png",
        "-map",
        0,
        "-map",
        1,
        "-c",
        "copy",
        "-disposition:v:0",
        "attached_pic",
        tmp_path / "b.mp4",
    )
    with pytest.raises(MediaError, match="has no video in it"):
        read(tmp_path / "b.mp4")


def test_a_size_that_changes_is_refused(tmp_path):
    """Frames cannot be counted across it; the error says how to get a video of one size."""
    small = make(tmp_path / "small.h264", counting(80))
    large = make(tmp_path / "large.h264", np.zeros((40, 64, 96, 3), np.uint8))
    (tmp_path / "a.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(
        MediaError, match=r"81 frames came instead of 100; .* give a copy, made by ffmpeg"
    ):
        read(tmp_path / "a.h264")


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


LISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.mp4\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile clip.mp4\n",
    "a.mp4": "ffconcat version 1.0\nfile clip.mp4\n",
    "a.sdp": "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "a.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
    "a.xml": '<AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"/>',
    "a.txt": "a text, which ffmpeg draws as a terminal would\n" * 100,
    "a.srt": "1\n00:00:00,000 --> 00:00:01,000\nwords\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_files_and_texts_are_no_videos(tmp_path, name):
    """Playlists and their kin name other files and addresses, none of which is opened."""
    make(tmp_path / "clip.mp4", counting(40))
    (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(MediaError, match=f"{name}: (not a video|damaged|has no video)") as error:
        read_video(tmp_path / name, HEIGHT, WIDTH, 24)
    assert "\n" not in str(error.value)


def test_a_still_image_is_no_video(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a0001.png")
    for name in ("a0001.png", "a%04d.png"):
        with pytest.raises(MediaError, match=r"in a format that is not read|No such file"):
            read_video(tmp_path / name, HEIGHT, WIDTH, 24)


def test_frames_that_would_fill_memory_are_not_decoded(tmp_path):
    source = "color=size=9000x9000:rate=24:duration=0.05"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "mjpeg", tmp_path / "a.avi")
    with pytest.raises(MediaError, match="frames of more than 67108864 pixels; make them smaller"):
        read_video(tmp_path / "a.avi", HEIGHT, WIDTH, 24)


def test_a_codec_that_is_not_listed_is_not_decoded(tmp_path):
    make(tmp_path / "a.avi", counting(40), 24, "-c:v", "asv1")
    with pytest.raises(MediaError, match="in a format that is not read"):
        read_video(tmp_path / "a.avi", HEIGHT, WIDTH, 24)


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
