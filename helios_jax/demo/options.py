"""Limits of the server."""

import dataclasses

from helios_jax.errors import HeliosError


class DemoError(HeliosError, ValueError):
    """A visitor's request that cannot be served; the message says what to change.

    Attributes:
      status: of HTTP.
    """

    status = 400


class UnknownVideoError(DemoError):
    """There is no video of that name."""

    status = 404


class BusyError(DemoError):
    """The line is full."""

    status = 503


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How much a visitor may ask for, and how long things are kept.

    Attributes:
      at_once: videos that take turns, a chunk each; the others wait.
      waiting: videos that may be in line, those that take turns included.
      chunks: of a video, at most.
      pixels: of a frame, at most; 0 is the size that the model has by itself.
      upload_bytes: of an image or a video to start from, at most.
      lease_s: seconds after which a video whose page is closed gives up its place.
      keep_s: seconds for which the files of a video are kept after it was last looked at.
      videos: that are kept at most, finished ones included.
    """

    at_once: int = 1
    waiting: int = 64
    chunks: int = 44
    pixels: int = 0
    upload_bytes: int = 2**25
    lease_s: float = 30.0
    keep_s: float = 3600.0
    videos: int = 256
