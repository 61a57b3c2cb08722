"""Writing video that can be watched while it is made: an mp4 that grows by whole chunks, in a file,
a named pipe, or standard output.

A fragmented mp4 is a header (boxes ``ftyp`` and ``moov``) and any number of fragments (``moof``,
then ``mdat``) that each say when they begin. Every chunk is encoded by an ffmpeg of its own, so
that neither encoder nor muxer holds back its last frames until the next chunk comes, and appended
as one fragment that begins with a keyframe. What a killed run leaves is whole up to its last chunk,
and is continued by appending.
"""

import contextlib
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Generator, Iterator
from typing import IO

import numpy as np

from helios_jax.media.ffmpeg import (
    H264,
    MediaError,
    check_frames,
    exit_reason,
    find_ffmpeg,
    frame_rate,
    raw_frames,
)
from helios_jax.media.output import check_output, check_rate, is_pipe, output_kind
from helios_jax.writers import writing

# Without B-frames a frame is decoded when it is shown, and chunks fit together without gaps.
# Sampling waits for the encoder: hence the preset. `frag_custom` begins a fragment only when told
# to, which is never: what the encoder takes for a cut between scenes would begin one otherwise.
ENCODER = (
    f"{H264} -preset veryfast -bf 0 "
    "-movflags +empty_moov+default_base_moof+frag_custom+skip_trailer -f mp4 -"
)
TICKS = 512
"""Ticks of the file's clock in a frame, times the denominator of the frame rate."""


@contextlib.contextmanager
def open_live_writer(
    path: str | os.PathLike, fps: int | float, keep_frames: int = 0
) -> Generator["LiveWriter"]:
    """Open an mp4 that has every chunk in it as soon as ``write`` returns, even if the ``with``
    block fails later.

    Args:
      path: an ``.mp4`` file, which is written in place; a named pipe; or ``-``, standard output.
      fps: frames per second.
      keep_frames: go on with a file that an earlier run has left: keep that many of its frames,
        which must be whole chunks, and drop what follows. With 0 the first chunk replaces whatever
        is there.

    Raises:
      MediaError: if nothing can be written there, ``fps`` cannot be had, ``keep_frames`` are not
        there to keep, or no frame was written.
    """
    if output_kind(path) != ".mp4":
        raise MediaError(
            f"{path}: only .mp4, a named pipe or - (standard output) can be written live"
        )
    check_rate(path, fps)
    check_output(path)
    with contextlib.ExitStack() as stack:
        writer = LiveWriter(path, fps, stack)
        if keep_frames:
            writer.resume(keep_frames)
        yield writer
        if not writer.num_frames:
            raise MediaError(f"{path}: no frame was written")


def live_frames(path: str | os.PathLike) -> list[int]:
    """How many frames a live file holds up to the end of each of its whole chunks, for example
    ``[33, 66, 99]``.

    Raises:
      MediaError: if it cannot be read, or is something else.
    """
    return [frames for frames, _ in read_live_chunks(path)[1]]


class LiveWriter:
    """Appends chunks. Made by :func:`open_live_writer`.

    Attributes:
      num_frames: in the video so far.
    """

    def __init__(self, path: str | os.PathLike, fps: int | float, stack: contextlib.ExitStack):
        self.num_frames = 0
        self._path = path
        self._rate = frame_rate(fps)
        self._stack = stack
        self._file: IO[bytes] | None = None
        self._header: bytes | None = None
        self._chunks = 0

    def write(self, frames: np.ndarray) -> None:
        """Append a chunk; when this returns, it is there to be read.

        Args:
          frames: ``[F, Y, X, 3]`` uint8 RGB; F may differ from call to call, Y and X may not.

        Raises:
          MediaError: if the frames are something else, have an odd side or a new size, ffmpeg
            fails, or the disk is full or the reader gone.
        """
        check_frames(frames, even=True)
        if not len(frames):
            return
        video = self._encode(frames)
        first = _find(video, b"moof") - 8
        header = bytes(video[:first])
        fragment = video[first:]
        if self._header not in (None, header):
            raise MediaError(
                f"{self._path}: frames of {frames.shape[2]}x{frames.shape[1]} at {self._rate} fps "
                "do not go on with what is there: it has another size or rate, or was made by "
                "another ffmpeg"
            )
        struct.pack_into(">I", fragment, _find(fragment, b"moof", b"mfhd") + 4, self._chunks + 1)
        begin = self.num_frames * TICKS * self._rate.denominator
        struct.pack_into(">Q", fragment, _find(fragment, b"moof", b"traf", b"tfdt") + 4, begin)
        self._append(fragment if self._header else header + fragment)
        self._header = header
        self._chunks += 1
        self.num_frames += len(frames)

    def resume(self, keep_frames: int) -> None:
        """Begin after ``keep_frames`` frames of what is there."""
        if is_pipe(self._path):
            raise MediaError(f"{self._path}: what went into a pipe cannot be continued")
        self._header, chunks = read_live_chunks(self._path)
        counts = [frames for frames, _ in chunks]
        if keep_frames not in counts:
            raise MediaError(
                f"{self._path}: cannot keep {keep_frames} frames: its whole chunks end after "
                f"{counts or 'no'} frames"
            )
        self._chunks = counts.index(keep_frames) + 1
        self.num_frames = keep_frames
        file = self._open("r+b")
        file.truncate(chunks[self._chunks - 1][1])
        file.seek(0, os.SEEK_END)
        self._file = file

    def _encode(self, frames: np.ndarray) -> bytearray:
        """A whole mp4 of these frames alone."""
        source = raw_frames((frames.shape[2], frames.shape[1]), self._rate)
        clock = ["-video_track_timescale", str(self._rate.numerator * TICKS)]
        command = [find_ffmpeg(self._path), "-v", "error", *source, *clock, *ENCODER.split()]
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
        if done.returncode:
            reason = exit_reason(done.returncode, done.stderr.decode(errors="replace"))
            raise MediaError(
                f"{self._path} cannot be written: ffmpeg stopped with status {done.returncode}: "
                f"{reason}"
            )
        return bytearray(done.stdout)

    def _append(self, data: bytes | bytearray) -> None:
        if self._file is None:
            self._file = self._open("wb")
        left = memoryview(data)
        with writing(self._path, MediaError):
            while left:  # a pipe takes what it has room for
                left = left[self._file.write(left) :]

    def _open(self, mode: str) -> IO[bytes]:
        """Open the file without a buffer, which would be written once more after an error."""
        with writing(self._path, MediaError):
            if os.fspath(self._path) == "-":
                return open(sys.stdout.fileno(), mode, buffering=0, closefd=False)
            return self._stack.enter_context(open(self._path, mode, buffering=0))


def read_live_chunks(path: str | os.PathLike) -> tuple[bytes, list[tuple[int, int]]]:
    """The header of a live file and, for each whole chunk, how many frames there are up to its end
    and how many bytes.

    Raises:
      MediaError: if it cannot be read, or is something else.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            boxes = list(_boxes(data, 0, len(data)))
            if [kind for kind, _, _ in boxes[:2]] != [b"ftyp", b"moov"]:
                raise ValueError("no header")
            frames = 0
            chunks = []
            for (kind, start, end), (last, _, chunk_end) in zip(boxes[2::2], boxes[3::2]):
                if (kind, last) != (b"moof", b"mdat"):
                    raise ValueError("not in fragments")
                fragment = data[start - 8 : end]
                place = _find(fragment, b"moof", b"traf", b"trun") + 4
                frames += struct.unpack_from(">I", fragment, place)[0]
                chunks.append((frames, chunk_end))
            return data[: boxes[1][2]], chunks
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from error
    except (ValueError, struct.error) as error:  # an empty file cannot be mapped
        raise MediaError(f"{path}: not a video that was written live: {error}") from error


def _find(data: bytes | bytearray, *kinds: bytes) -> int:
    """Where the content of a box begins, which is found by the kinds of the boxes around it, from
    the outermost in.

    Raises:
      ValueError: if there is no such box.
    """
    start = 0
    end = len(data)
    for wanted in kinds:
        for kind, begin, stop in _boxes(data, start, end):
            if kind == wanted:
                start = begin
                end = stop
                break
        else:
            raise ValueError(f"no {wanted.decode()}")
    return start


def _boxes(
    data: bytes | bytearray | mmap.mmap, start: int, end: int
) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each whole box of an mp4, where its content begins, and where it ends."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            return
        yield kind, start + 8, start + size
        start += size
