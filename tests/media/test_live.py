"""A live file can be watched while it grows, survives what ends the run, and can be continued."""

import os
import re
import subprocess
import sys
import threading
import time

import hypothesis
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import strategies as st

from helios_jax.media import MediaError, live_frames, open_live_writer, open_video_writer

CHUNK = 12


def clip(start, count=CHUNK, height=32, width=48):
    """Frames that say which they are: each is a grey of its own."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    return frames + (20 + 3 * np.arange(start, start + count, dtype=np.uint8))[:, None, None, None]


def play(source):
    """Which frames of :func:`clip` a file, or the bytes of one, shows, at which times in frames,
    and which of them are keyframes.
    """
    given = {"input": source} if isinstance(source, bytes) else {}
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "-" if given else source]
    pixels = subprocess.run(
        [*ffmpeg, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"],
        capture_output=True,
        **given,
    ).stdout
    grey = np.frombuffer(pixels, np.uint8).reshape(-1, 32 * 48).mean(-1)
    packets = subprocess.run(
        [*ffmpeg, "-c", "copy", "-f", "framecrc", "-"], capture_output=True, text=not given, **given
    ).stdout
    lines = [
        line for line in (packets.decode() if given else packets).splitlines() if line[0] != "#"
    ]
    ticks = [int(line.split(",")[2]) for line in lines]
    keys = [i for i, line in enumerate(lines) if "F=" not in line]
    return np.rint((grey - 20) / 3).astype(int).tolist(), ticks, keys


def whole(source, count):
    """Whether it shows the first ``count`` frames, evenly spaced, each chunk from a keyframe on."""
    shown, ticks, keys = play(source)
    assert shown == list(range(count))
    assert ticks == [512 * i for i in range(count)]
    assert set(range(0, count, CHUNK)) <= set(keys)


def write(path, chunks, fps=24, **options):
    """Chunks by number."""
    with open_live_writer(path, fps, **options) as writer:
        for chunk in chunks:
            writer.write(clip(chunk * CHUNK))


@pytest.fixture(scope="module")
def live_file(tmp_path_factory):
    """A live file of two chunks."""
    path = tmp_path_factory.mktemp("live") / "a.mp4"
    write(path, [0, 1])
    return path


def test_every_chunk_is_there_when_it_is_written(tmp_path):
    """The growing file plays up to its last frame while the writer is still open."""
    path = tmp_path / "a.mp4"
    with open_live_writer(path, 24) as writer:
        for chunk in range(4):
            writer.write(clip(chunk * CHUNK))
            whole(path, (chunk + 1) * CHUNK)
    whole(path, 4 * CHUNK)
    numbers = [int.from_bytes(box[4:8], "big") for box in path.read_bytes().split(b"mfhd")[1:]]
    assert numbers == [1, 2, 3, 4]  # as the format wants it, though few players look
    assert writer.num_frames == 4 * CHUNK
    assert live_frames(path) == [12, 24, 36, 48]
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_chunk_is_one_fragment_whatever_it_shows(tmp_path):
    """Frames that have nothing in common look like cuts to the encoder; times still go on without a
    gap.
    """
    path = tmp_path / "noise.mp4"
    random = np.random.default_rng(0)
    with open_live_writer(path, 24) as writer:
        for count in (33, 33, 4):
            writer.write(random.integers(0, 255, (count, 32, 48, 3), np.uint8))
    assert live_frames(path) == [33, 66, 70]


def test_moving_pictures(tmp_path):
    """Motion, for which an encoder would like to reorder frames: they come evenly, in the order
    they are shown, and nearly as they were.
    """
    texture = np.random.default_rng(0).normal(size=(8, 10)).repeat(6, 0).repeat(6, 1)
    grey = np.stack([np.roll(texture, t, 1)[:32, :48] for t in range(36)])
    moving = np.repeat((128 + 40 * grey).clip(0, 255).astype(np.uint8)[..., None], 3, -1)
    with open_live_writer(tmp_path / "a.mp4", 24) as writer:
        for start in range(0, 36, CHUNK):
            writer.write(moving[start : start + CHUNK])
    assert play(tmp_path / "a.mp4")[1] == [512 * i for i in range(36)]
    ffmpeg = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        tmp_path / "a.mp4",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    shown = np.frombuffer(
        subprocess.run(ffmpeg, capture_output=True, check=True).stdout, np.uint8
    ).reshape(moving.shape)
    assert np.abs(shown.astype(int) - moving).mean() < 4


@pytest.mark.parametrize("fps", [16, 30000 / 1001])
def test_rate(tmp_path, fps):
    """Exactly, also where it is no whole number; evenly from chunk to chunk."""
    write(tmp_path / "a.mp4", [0, 1, 2], fps)
    log = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4"], capture_output=True, text=True
    ).stderr
    assert float(re.search(r"([\d.]+) fps", log)[1]) == pytest.approx(fps, abs=0.01)
    assert "yuv420p(tv, smpte170m" in log
    assert len(set(np.diff(play(tmp_path / "a.mp4")[1]))) == 1


def test_chunks_of_any_length(tmp_path):
    """The last one is cut to the frames asked for; an empty one is none."""
    with open_live_writer(tmp_path / "a.mp4", 24) as writer:
        for start, count in [(0, 12), (12, 1), (13, 0), (13, 5)]:
            writer.write(clip(start, count))
    assert play(tmp_path / "a.mp4")[0] == list(range(18))
    assert live_frames(tmp_path / "a.mp4") == [12, 13, 18]


def test_named_pipe(tmp_path):
    """What a player at the other end has received after one chunk shows that chunk; the pipe is
    left a pipe.
    """
    path = tmp_path / "pipe"
    received = bytearray()
    write(tmp_path / "one chunk.mp4", [0])
    os.mkfifo(path)

    def watch():
        with open(path, "rb", buffering=0) as pipe:
            while data := pipe.read(1 << 20):
                received.extend(data)

    player = threading.Thread(target=watch)
    player.start()
    with open_live_writer(path, 24) as writer:
        writer.write(clip(0))
        while len(received) < (tmp_path / "one chunk.mp4").stat().st_size:
            time.sleep(0.01)
        whole(bytes(received), 12)
        writer.write(clip(12))
    player.join()
    whole(bytes(received), 24)
    assert path.is_fifo()


def test_reader_that_leaves(tmp_path):
    """A player that is closed is an error that says so, not a silent end."""
    os.mkfifo(tmp_path / "pipe")
    player = threading.Thread(target=lambda: open(tmp_path / "pipe", "rb").close())
    player.start()
    with pytest.raises(MediaError, match="pipe cannot be written: Broken pipe"):
        write(tmp_path / "pipe", range(40))
    player.join()


SCRIPT = """
import sys
import numpy as np
from helios_jax.media import open_live_writer
with open_live_writer(sys.argv[1], 24) as writer:
    for start in range(0, int(sys.argv[2]), 12):
        grey = 20 + 3 * np.arange(start, start + 12, dtype=np.uint8)
        writer.write(np.zeros((12, 32, 48, 3), np.uint8) + grey[:, None, None, None])
        print(start + 12, file=sys.stderr, flush=True)
"""


def test_standard_output():
    """``-`` is standard output, and nothing else is written there."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-", "24"], capture_output=True, check=True
    )
    whole(done.stdout, 24)


def test_killed_and_continued(tmp_path):
    """After kill -9 every chunk that was reported is there and plays, and a second run goes on
    where it is told to.
    """
    path = tmp_path / "a.mp4"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, path, "72"], stderr=subprocess.PIPE
    ) as process:
        for _ in range(2):
            process.stderr.readline()
        process.kill()
    left = live_frames(path)
    assert left[:2] == [12, 24]
    whole(path, left[-1])
    write(path, [2, 3], keep_frames=24)
    whole(path, 48)


@pytest.mark.parametrize("lost", [1, 100, "to the last fragment's data", "to its header"])
def test_torn_chunk(tmp_path, lost):
    """A chunk that was being written when the disk filled up does not count, and continuing drops
    it.
    """
    path = tmp_path / "a.mp4"
    write(path, [0, 1, 2])
    data = path.read_bytes()
    cut = {
        "to the last fragment's data": data.rindex(b"mdat") + 4,
        "to its header": data.rindex(b"moof") + 3,
    }.get(lost) or len(data) - lost
    path.write_bytes(data[:cut])
    assert live_frames(path) == [12, 24]
    assert play(path)[0][:24] == list(range(24))
    write(path, [2], keep_frames=24)
    whole(path, 36)
    assert path.read_bytes() == data


@pytest.mark.parametrize("keep", [12, 24, 36])
def test_continued_is_as_if_never_interrupted(tmp_path, keep):
    """Byte for byte; chunks after those to be kept are dropped, also when none follow."""
    write(tmp_path / "a.mp4", [0, 1, 2])
    expected = (tmp_path / "a.mp4").read_bytes()
    write(tmp_path / "a.mp4", [5] * 2, keep_frames=12)
    write(tmp_path / "a.mp4", range(1, keep // 12), keep_frames=12)
    write(tmp_path / "a.mp4", range(keep // 12, 3), keep_frames=keep)
    assert (tmp_path / "a.mp4").read_bytes() == expected


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (48, r"cannot keep 48 frames: its whole chunks end after \[12, 24\] frames"),
        (13, r"cannot keep 13 frames"),
    ],
)
def test_only_whole_chunks_that_are_there_are_kept(tmp_path, keep, message):
    """Anything else is refused at once, and the file left as it is."""
    write(tmp_path / "a.mp4", [0, 1])
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(MediaError, match=message):
        write(tmp_path / "a.mp4", [2], keep_frames=keep)
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_only_live_files_are_continued(tmp_path):
    """Not one that is missing, empty, something else, an ordinary mp4, or went into a pipe."""
    path = tmp_path / "a.mp4"
    with pytest.raises(MediaError, match="No such file"):
        write(path, [0], keep_frames=12)
    for content in (b"", b"a red ball rolls over green grass"):
        path.write_bytes(content)
        with pytest.raises(MediaError, match="not a video that was written live"):
            write(path, [0], keep_frames=12)
    with open_video_writer(path, 24) as writer:
        writer.write(clip(0))
    with pytest.raises(MediaError, match="not a video that was written live"):
        write(path, [1], keep_frames=12)
    with pytest.raises(MediaError, match="went into a pipe"):
        write("-", [0], keep_frames=12)


@hypothesis.settings(max_examples=300, deadline=None, database=None)
@hypothesis.given(st.data())
def test_any_change_of_a_live_file_is_read_or_one_line(live_file, data):
    """Sizes and kinds of boxes, missing boxes, cuts: whatever there is in a file of that name."""
    content = bytearray(live_file.read_bytes())
    headers = [match.start() for match in re.finditer(b"mo|tr|md|ft", content)]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(headers)) + data.draw(st.integers(-4, 8))
        content[max(0, place)] = data.draw(st.integers(0, 255))
    changed = live_file.with_name("changed.mp4")
    changed.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        counts = live_frames(changed)
    except MediaError as error:
        message = str(error)
    else:
        assert counts == sorted(counts)
        return
    assert message.startswith(f"{changed}: not a video that was written live")


@pytest.mark.parametrize("box", [b"traf", b"trun", b"moof", b"mdat"])
def test_a_fragment_without_one_of_its_boxes_is_one_line(tmp_path, box):
    write(tmp_path / "a.mp4", [0, 1])
    content = (tmp_path / "a.mp4").read_bytes().replace(box, b"free")
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match="not a video that was written live"):
        live_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize(("fps", "height"), [(25, 32), (24, 34)])
def test_a_video_has_one_size_and_rate(tmp_path, fps, height):
    """What does not go on with the file is refused before it is appended."""
    write(tmp_path / "a.mp4", [0])
    with (
        pytest.raises(MediaError, match=f"48x{height} at {fps} fps do not go on"),
        open_live_writer(tmp_path / "a.mp4", fps, 12) as writer,
    ):
        writer.write(clip(0, height=height))
    whole(tmp_path / "a.mp4", 12)


def test_failure_leaves_what_was_written(tmp_path):
    """An older file is replaced by the first chunk, not before, and no chunk is taken back."""
    path = tmp_path / "a.mp4"

    def fail_after(chunks):
        with open_live_writer(path, 24) as writer:
            for chunk in chunks:
                writer.write(clip(chunk * CHUNK))
            raise ZeroDivisionError

    write(path, [0])
    with pytest.raises(ZeroDivisionError):
        fail_after([])
    whole(path, 12)
    with pytest.raises(ZeroDivisionError):
        fail_after([0, 1])
    whole(path, 24)


def test_a_failing_ffmpeg_is_reported(tmp_path, monkeypatch):
    """With its message and status; the chunks before stay."""
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\ncat >/dev/null\necho disk on fire >&2\nexit 3\n")
    script.chmod(0o755)
    with open_live_writer(tmp_path / "a.mp4", 24) as writer:
        writer.write(clip(0))
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
        with pytest.raises(MediaError, match="status 3: disk on fire"):
            writer.write(clip(12))
        monkeypatch.undo()
    whole(tmp_path / "a.mp4", 12)


@pytest.mark.parametrize("name", ["a.gif", "frames", "a.safetensors"])
def test_only_mp4_is_written_live(tmp_path, name):
    """The other kinds cannot be watched while they grow."""
    with pytest.raises(MediaError, match=r"only \.mp4, a named pipe or - \(standard output\)"):
        write(tmp_path / name, [])


def test_bad_input_is_refused(tmp_path):
    """As for whole files."""
    with pytest.raises(MediaError, match="no frame was written"):
        write(tmp_path / "a.mp4", [])
    with pytest.raises(MediaError, match="fps=0 must be"):
        write(tmp_path / "a.mp4", [], 0)
    for frames, message in [
        (clip(0)[0], "not uint8"),
        (clip(0, height=33), "even sides, not 48x33"),
        (clip(0) / 255, "not float"),
    ]:
        with (
            pytest.raises(MediaError, match=message),
            open_live_writer(tmp_path / "a.mp4", 24) as writer,
        ):
            writer.write(frames)
    assert not list(tmp_path.iterdir())
