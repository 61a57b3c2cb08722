"""Damaged videos are read or refused in one line; FFmpeg, which runs in the same process, does not
take it down.
"""

import subprocess
import sys

import numpy as np

from .clips import HEIGHT, WIDTH, make

KINDS = {
    "mp4": (),
    "mov": ("-c:v", "prores"),
    "mkv": ("-c:v", "ffv1"),
    "webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"),
    "avi": ("-c:v", "mjpeg"),
    "ts": ("-c:v", "mpeg2video"),
    "ogv": ("-c:v", "libtheora"),
    "gif": (),
}
VARIANTS = 12
"""Of each kind."""

READ_ALL = """
import sys
from pathlib import Path
from helios_jax.media import MediaError, read_video

refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_video(path, 32, 64, 24, piece=8)
    except MediaError as error:
        assert str(error).startswith(f"{path}: "), error
        assert "\\n" not in str(error), error
        refused += 1
print(refused)
"""


def damaged(data, draws):
    """A variant: bytes changed, a part missing, or a part twice."""
    data = bytearray(data)
    start, end = sorted(draws.integers(0, len(data), 2))
    kind = draws.integers(4)
    if kind == 0:
        for place in draws.integers(0, len(data), 20):
            data[place] = draws.integers(256)
    elif kind == 1:
        for place in draws.integers(0, min(400, len(data)), 3):  # headers
            data[place] = draws.integers(256)
    elif kind == 2:
        del data[start:end]
    else:
        data[start:start] = data[start:end]
    return bytes(data)


def test_damaged_videos_are_read_or_refused(tmp_path, record_property):
    record_property("cases", VARIANTS * len(KINDS))
    (tmp_path / "damaged").mkdir()
    draws = np.random.default_rng(0)
    frames = draws.integers(0, 256, (24, HEIGHT, WIDTH, 3), np.uint8)
    for suffix, options in KINDS.items():
        whole = make(tmp_path / f"a.{suffix}", frames, 24, *options).read_bytes()
        for number in range(VARIANTS):
            content = damaged(whole, draws)
            (tmp_path / "damaged" / f"{number}.{suffix}").write_bytes(content)
    command = [sys.executable, "-c", READ_ALL, tmp_path / "damaged"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0.3 * VARIANTS * len(KINDS)
