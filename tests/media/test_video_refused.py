"""Files that are no whole video of a known format are refused in one line."""

import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError, read_pieces, read_video

from .clips import HEIGHT, WIDTH, counting, ffmpeg, make, read


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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ["-movflags", "+faststart"]),
        ("b.mp4", ["-movflags", "frag_keyframe+empty_moov"]),
        ("a.mkv", []),
    ],
)
def test_a_file_cut_in_its_header_is_damaged(tmp_path, name, options):
    """Whether nothing is described yet, or a video without its codec; where all is described and no
    frame has come, it has none.
    """
    said = f"{name}: (damaged, cut short, or not a video: .|has 0 frame)"
    data = make(tmp_path / name, counting(40), 24, *options).read_bytes()
    for length in range(20, 1000, 35):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(MediaError, match=said):
            read(tmp_path / name)


def test_damage_is_met_by_who_asks_for_that_part(tmp_path):
    """Pieces before it come; it ends those after it, and a video of which the end is kept."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 32, 64, 3), np.uint8)
    path = make(tmp_path / "a.avi", noise, 24, "-c:v", "ffv1")
    data = bytearray(path.read_bytes())
    for place in range(int(len(data) * 0.8), int(len(data) * 0.9)):
        data[place] ^= 0x55
    path.write_bytes(data)
    _, pieces = read_pieces(path, HEIGHT, WIDTH, 24, piece=20)
    assert len(next(pieces)) == 20
    with pytest.raises(MediaError, match=r"a\.avi: damaged, cut short, or not a video: ."):
        list(pieces)
    with pytest.raises(MediaError, match=r"a\.avi: damaged, cut short, or not a video: ."):
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
        MediaError, match="change from 64x32 to 96x64 pixels; give a copy, made by ffmpeg"
    ):
        read(tmp_path / "a.h264")


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
