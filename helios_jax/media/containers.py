"""Opening one video file with PyAV, of the formats that are read and no others."""

import contextlib
import os
from collections.abc import Generator

import av
import av.error
from av.container import Flags as ContainerFlags
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from helios_jax.media.ffmpeg import DECODERS, DEMUXERS, MAX_PIXELS, MediaError
from helios_jax.media.matroska import is_cut_short


@contextlib.contextmanager
def open_video(path: str | os.PathLike) -> Generator[tuple[InputContainer, VideoStream]]:
    """A file and its first video that is not a cover; errors name the file.

    ``file:`` keeps a name from being taken for an address; the lists keep FFmpeg from opening
    anything but one file of a known kind.
    """
    limits = {"max_pixels": str(MAX_PIXELS)}
    lists = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": ",".join(DECODERS),
    }
    name = f"file:{os.path.abspath(path)}"
    with naming(path):
        try:
            container = av.open(
                name, options=limits, container_options=lists, metadata_errors="replace"
            )
        except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not listed
            raise unread_error(path) from error
        with container:
            container.flags &= ~ContainerFlags.gen_pts.value  # times that are not in the file
            if not set(container.format.name.split(",")) & set(DEMUXERS):
                raise unread_error(path)
            if "matroska" in container.format.name and is_cut_short(path):
                raise damage_error(path, "the end is missing")
            yield container, _find_video(path, container)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Generator[None]:
    """Errors of FFmpeg name the file."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise damage_error(path, error.strerror or str(error)) from error


def _find_video(path: str | os.PathLike, container: InputContainer) -> VideoStream:
    """The first video that is not a cover; what else is in the file is not read."""
    found: VideoStream | None = None
    for stream in container.streams:
        cover = stream.disposition & Disposition.attached_pic
        if found is None and isinstance(stream, VideoStream) and not cover:
            found = stream
        else:
            stream.discard = Discard.all
    if found is None and not container.streams.audio:
        raise damage_error(path, "no video is described in it")
    if found is None:
        raise MediaError(f"{path}: has no video in it")
    if found.codec_context is None:
        raise damage_error(path, "its video is of no known kind")
    if found.codec_context.codec.name not in DECODERS:
        raise unread_error(path)
    if not found.width * found.height:  # FFmpeg tells no size above its limit
        raise MediaError(
            f"{path}: damaged, or frames of more than {MAX_PIXELS} pixels; make them smaller"
        )
    return found


def damage_error(path: str | os.PathLike, reason: str) -> MediaError:
    """What to raise where FFmpeg, or this package, finds damage."""
    return MediaError(f"{path}: damaged, cut short, or not a video: {reason}")


def unread_error(path: str | os.PathLike) -> MediaError:
    """What to raise where a format is not on the lists."""
    return MediaError(
        f"{path}: not a video, or in a format that is not read; save it as mp4, by ffmpeg -i FILE "
        "copy.mp4"
    )
