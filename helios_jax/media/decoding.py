"""Decoding one video file with PyAV: what is in it, and its frames one after another."""

import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import NamedTuple

from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from helios_jax.media.containers import damage_error, open_video
from helios_jax.media.ffmpeg import MAX_PIXELS, MediaError

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders that leave transparency out, and those that do not."""

HIGH_RANGE = {16: "smpte2084", 18: "arib-std-b67"}
"""The transfer functions of high dynamic range, PQ and HLG, by their numbers in ITU-T H.273."""


class Contents(NamedTuple):
    """What a file says of its video, found without decoding it.

    Attributes:
      codec: its name.
      rate: frames per second on average, where that is known.
      unit: seconds that a time counts.
      times: when each frame begins, in order.
      by_number: whether a frame's time is that of its number, since the file does not say when each
        is shown.
      end: when the last frame ends.
      aspect: width of a pixel over its height.
      transparent: whether its pixels may be transparent.
      high_range: the transfer function, where it is one of high dynamic range.
    """

    codec: str
    rate: Fraction | None
    unit: Fraction
    times: list[int]
    by_number: bool
    end: int
    aspect: Fraction
    transparent: bool
    high_range: str | None

    def seconds(self, cut: tuple[int, int] | None = None) -> Fraction:
        """How long the frames from the first of ``cut`` to before its second are shown."""
        times = [*self.times, self.end]
        first, end = cut or (0, len(times))
        last = len(times) - 1
        return (times[min(end, last)] - times[min(first, last)]) * self.unit


class Shown(NamedTuple):
    """A decoded frame, and the seconds that it is shown."""

    frame: VideoFrame
    seconds: Fraction


def read_contents(path: str | os.PathLike) -> Contents:
    """What is in a file: all of it is read, and nothing decoded.

    Raises:
      MediaError: if it is cut short, no video, or in a format that is not read.
    """
    with open_video(path) as (container, stream):
        step = _step(stream)
        shown: list[int | None] = []
        decoded: list[int] = []
        lengths: list[int] = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise damage_error(path, "a part of a frame is missing")
            if packet.size and not (packet.is_discard or _is_hidden(stream, packet)):
                following = decoded[-1] + lengths[-1] if decoded else 0
                shown.append(packet.pts)
                decoded.append(following if packet.dts is None else packet.dts)
                lengths.append(step if packet.dts is None else packet.duration or step)
        times = [time for time in shown if time is not None]
        by_number = len(times) < len(shown)
        if by_number:
            times = decoded
        end = max(map(sum, zip(times, lengths)), default=0)
        context = stream.codec_context
        return Contents(
            codec=context.codec.canonical_name,
            rate=stream.average_rate or stream.guessed_rate,
            unit=_unit(stream),
            times=sorted(times),
            by_number=by_number,
            end=end,
            aspect=stream.sample_aspect_ratio or Fraction(1),
            transparent=_alpha_decoder(stream) is not None or _has_alpha(context),
            high_range=HIGH_RANGE.get(context.color_trc),
        )


def decode(path: str | os.PathLike, contents: Contents, first: int = 0) -> Generator[Shown]:
    """The frames of a file, decoded as they are asked for.

    Args:
      path: the file.
      contents: what :func:`read_contents` found in it.
      first: the number of the frame to begin with. Decoding begins at the keyframe before it, or,
        where the file cannot be searched, at its beginning.

    Raises:
      MediaError: at the first frame that is damaged.
    """
    with contextlib.closing(_timed_from(path, contents, first)) as timed:
        last: VideoFrame | None = None
        began = 0
        for begins, frame in timed:
            if last is not None:
                yield Shown(last, (begins - began) * contents.unit)
            last = frame
            began = begins
        if last is not None:
            yield Shown(last, (contents.end - began) * contents.unit)


def _timed_from(
    path: str | os.PathLike, contents: Contents, first: int
) -> Generator[tuple[int, VideoFrame]]:
    """The frames from a number on, each with the time at which it begins."""
    if first and not contents.by_number:
        begins = contents.times[first]
        with contextlib.closing(_timed(path, contents, begins)) as found:
            head = None
            with contextlib.suppress(MediaError):  # the search ended between keyframes
                head = next(found, None)
            if head and head[0] == begins:
                yield head
                yield from found
                return
    with contextlib.closing(_timed(path, contents)) as found:
        yield from itertools.islice(found, first, None)


def _timed(
    path: str | os.PathLike, contents: Contents, begin: int | None = None
) -> Generator[tuple[int, VideoFrame]]:
    """The frames that begin at a time or later, or all."""
    with open_video(path) as (container, stream):
        if begin is not None:
            container.seek(begin, stream=stream)
        step = _step(stream)
        time = 0
        for number, frame in enumerate(_frames(path, container, stream)):
            if contents.by_number:
                time = contents.times[min(number, len(contents.times) - 1)]
            else:
                time = time + step if frame.pts is None else frame.pts
            if begin is None or time >= begin:
                yield time, frame


def _frames(
    path: str | os.PathLike, container: InputContainer, stream: VideoStream
) -> Iterator[VideoFrame]:
    """Decoded frames; one that is damaged, or of another size than the first, ends them."""
    context = _decoder(stream)
    size: tuple[int, int] | None = None
    for packet in itertools.chain(container.demux(stream), [None]):  # None: what is held back
        if packet is not None and packet.is_corrupt:
            raise damage_error(path, "a part of a frame is missing")
        if packet is not None and not packet.size:  # Theora's way to show a frame again
            continue
        for frame in context.decode(packet):
            if frame.is_corrupt:
                raise damage_error(path, "a frame cannot be decoded")
            here = (frame.width, frame.height)
            size = size or here
            if here != size:
                raise MediaError(
                    f"{path}: its frames change from {size[0]}x{size[1]} to {here[0]}x{here[1]} "
                    "pixels; give a copy, made by ffmpeg -i FILE copy.mp4"
                )
            yield frame


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """The decoder of a video, on all processors."""
    context = stream.codec_context
    if name := _alpha_decoder(stream):
        context = CodecContext.create(name, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = stream.codec_context.extradata
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_type = "AUTO"
    return context


def _alpha_decoder(stream: VideoStream) -> str | None:
    """The decoder to use for a video that is transparent where only its container says so."""
    if stream.metadata.get("alpha_mode") != "1":
        return None
    return ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)


def _has_alpha(context: VideoCodecContext) -> bool:
    pixels = context.format
    if pixels is None:
        return False
    return pixels.has_palette or any(component.is_alpha for component in pixels.components)


def _is_hidden(stream: VideoStream, packet: Packet) -> bool:
    """Whether a frame is only there for others to refer to, which VP8 stores by themselves (RFC
    6386, section 9.1).
    """
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


def _unit(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 90000)


def _step(stream: VideoStream) -> int:
    """How long a frame is shown that does not say so."""
    rate = stream.codec_context.framerate or stream.average_rate or stream.guessed_rate
    return round(1 / (rate * _unit(stream))) if rate else 0
