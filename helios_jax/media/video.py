"""Writing video while its chunks arrive. ffmpeg, which comes with imageio-ffmpeg, encodes; memory
does not grow with the video.
"""

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from jaxtyping import UInt8

from helios_jax.media.ffmpeg import (
    H264,
    MediaError,
    check_frames,
    exit_reason,
    find_ffmpeg,
    frame_rate,
    raw_frames,
)
from helios_jax.media.output import (
    check_output,
    check_rate,
    is_pipe,
    numbered,
    output_kind,
    staged,
)

# A GIF gets a palette for each frame: one for all would need the whole video first.
ENCODERS = {
    ".mp4": ("", f"{H264} -movflags +faststart"),
    ".gif": (
        "",
        "-filter_complex split[a][b];[a]palettegen=stats_mode=single[palette];"
        "[b][palette]paletteuse=new=1 -loop 0",
    ),
    "": ("/%05d.png", "-c:v png -start_number 0"),
}
"""By kind of output: what follows the path, and ffmpeg's options."""


@contextlib.contextmanager
def open_video_writer(
    path: str | os.PathLike, fps: int | float, overwrite: bool = False
) -> Generator["VideoWriter"]:
    """Open a video for writing; it appears, whole, when the ``with`` block ends, and not at all if
    the block fails.

    Args:
      path: ``.mp4``, ``.gif``, or a folder of images ``00000.png``, ``00001.png``, ... (no suffix,
        or ending in ``/``).
      fps: frames per second; a GIF counts hundredths of a second and gets the delays that keep to
        it on average.
      overwrite: let a folder of images take the place of an older one.

    Raises:
      MediaError: if nothing can be written there (see
        :func:`~helios_jax.media.output.check_output`), ``fps`` cannot be had, no frame was written,
        or ffmpeg fails.
    """
    kind = output_kind(path)
    if is_pipe(path):
        raise MediaError(f"{path}: a pipe cannot be given a whole file at the end; write it live")
    if kind not in ENCODERS:
        raise MediaError(f"{path}: {kind} files hold no video; name .mp4, .gif, or a folder")
    check_rate(path, fps)
    check_output(path, overwrite)
    target = Path(os.path.abspath(path))
    with staged(target, overwrite) as partial:
        writer = VideoWriter(partial, kind, fps, target)
        try:
            yield writer
            writer.finish()
        finally:
            writer.kill()


def save_video(
    frames: UInt8[np.ndarray, "..."],
    path: str | os.PathLike,
    *,
    fps: int | float = 24,
    overwrite: bool = False,
) -> list[str]:
    """Write the frames that a pipeline has made.

    Args:
      frames: [F, height, width, 3], or [B, F, height, width, 3] for several videos.
      path: ``.mp4``, ``.gif``, or a folder for PNG images; several videos are numbered,
        ``clip_0.mp4``, ``clip_1.mp4`` and so on.
      fps: frames per second.
      overwrite: let a folder of images take the place of an older one.

    Returns:
      The paths.

    Raises:
      MediaError: as :func:`open_video_writer` says.
    """
    videos = frames if frames.ndim == 5 else frames[None]
    paths = numbered(path, len(videos))
    for video, target in zip(videos, paths):
        with open_video_writer(target, fps, overwrite) as writer:
            writer.write(video)
    return paths


class VideoWriter:
    """Sends frames to ffmpeg. Made by :func:`open_video_writer`."""

    def __init__(self, path: Path, kind: str, fps: int | float, target: Path):
        self._path = path
        self._target = target
        self._kind = kind
        self._fps = fps
        self._size: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = path.with_name("ffmpeg.log")

    def write(self, frames: np.ndarray) -> None:
        """Append frames.

        Args:
          frames: ``[F, Y, X, 3]`` uint8 RGB; F may differ from call to call, Y and X may not.

        Raises:
          MediaError: if the frames are something else, an mp4 has an odd side, or ffmpeg fails.
        """
        check_frames(frames, even=self._kind == ".mp4")
        if not len(frames):
            return
        size = frames.shape[2], frames.shape[1]
        process = self._process or self._start(size)
        if self._size and size != self._size:
            raise MediaError(
                f"frames of {size[0]}x{size[1]} pixels after frames of "
                f"{self._size[0]}x{self._size[1]}; a video has one size"
            )
        try:
            _stdin(process).write(frames.tobytes())
        except BrokenPipeError:
            self._raise(process)

    def finish(self) -> None:
        """Wait until everything is encoded."""
        if self._process is None:
            raise MediaError("no frame was written")
        with contextlib.suppress(BrokenPipeError):  # the exit status tells more
            _stdin(self._process).close()
        if self._process.wait():
            self._raise(self._process)

    def kill(self) -> None:
        """End ffmpeg if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):
                _stdin(self._process).close()

    def _start(self, size: tuple[int, int]) -> subprocess.Popen[bytes]:
        """Start ffmpeg for frames of a size, (width, height)."""
        if not self._kind:
            self._path.mkdir()
        tail, options = ENCODERS[self._kind]
        source = raw_frames(size, frame_rate(self._fps))
        command = [
            find_ffmpeg(self._path),
            "-v",
            "error",
            *source,
            *options.split(),
            self._path.name + tail,
        ]
        with self._log.open("wb") as log:  # a file: a pipe that nobody reads could fill up
            # run beside the output, so that no character of the path can mean something to ffmpeg
            self._process = subprocess.Popen(
                command, cwd=self._path.parent, stdin=subprocess.PIPE, stderr=log
            )
        self._size = size
        return self._process

    def _raise(self, process: subprocess.Popen[bytes]) -> NoReturn:
        """Raise what ffmpeg, which has stopped, says."""
        status = process.wait()
        reason = exit_reason(status, self._log.read_text(errors="replace"))
        raise MediaError(
            f"{self._target} cannot be written: ffmpeg stopped with status {status}: {reason}"
        )


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """The pipe into a process that was started with one."""
    assert process.stdin is not None
    return process.stdin
