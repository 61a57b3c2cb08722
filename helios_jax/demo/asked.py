"""What a visitor asks for, read strictly from JSON."""

import base64
import binascii
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.config import HeliosConfig
from helios_jax.demo.options import DemoError, DemoOptions
from helios_jax.sampling.fields import check_unicode
from helios_jax.sampling.geometry import frames_per_chunk
from helios_jax.sampling.pixels import image_pixels, video_pixels
from helios_jax.sampling.request import Request, read_request

FIELDS = (
    "seed",
    "steps",
    "guidance_scale",
    "guidance_interval",
    "solver",
    "negative_prompt",
    "height",
    "width",
)
"""Of a request, those that a visitor may set; they have the names and the ranges they have
everywhere.
"""

SOURCES = ("image", "video")
"""What a video may start from: a file in base64."""

MAX_CHARACTERS = 2_000
"""Of a prompt."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A video to be made, checked.

    Attributes:
      prompt: of its first chunk.
      request: what is made.
      image: [1, height, width, 3] that it starts from.
      video: [1, F, height, width, 3] that it goes on from.
    """

    prompt: str
    request: Request
    image: np.ndarray | None = None
    video: np.ndarray | None = None


def read_asked(config: HeliosConfig, options: DemoOptions, body: Any) -> Asked:
    """Check the JSON of a new video.

    Args:
      config: of the model.
      options: limits.
      body: a mapping of ``prompt``, ``chunks``, :data:`FIELDS` and one of :data:`SOURCES`.

    Raises:
      DemoError, RequestError, MediaError: naming what does not fit.
    """
    check_fields(body, ("prompt", "chunks", *FIELDS, *SOURCES))
    prompt = read_prompt(body)
    chunks = read_count(body, "chunks", 1, options.chunks, min(8, options.chunks))
    given = {name: body[name] for name in FIELDS if body.get(name) not in (None, "")}
    given["num_frames"] = chunks * frames_per_chunk(config)
    request = read_request(config, given)
    most = options.pixels or config.sample.height * config.sample.width
    if request.height * request.width > most:
        raise DemoError(
            f"{request.width}x{request.height} is more than the {most} pixels that are served here"
        )
    sources = {name: body[name] for name in SOURCES if body.get(name)}
    if len(sources) > 1:
        raise DemoError("an image and a video are given; give the one that the video starts from")
    found: dict[str, np.ndarray] = {}
    for name, text in sources.items():
        read = {"image": image_pixels, "video": video_pixels}[name]
        found[name] = _with_file(name, text, lambda path, read=read: read(path, request))
    return Asked(prompt, request, **found)


def read_prompt(body: Mapping[str, Any]) -> str:
    """The prompt of a request's JSON.

    Raises:
      DemoError, RequestError: if it is missing, empty, too long, or no Unicode.
    """
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DemoError("prompt must be a text that is not empty")
    if len(prompt) > MAX_CHARACTERS:
        raise DemoError(f"the prompt has {len(prompt):,} characters; at most {MAX_CHARACTERS:,}")
    check_unicode("the prompt", prompt)
    return prompt.strip()


def read_count(body: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    """A whole number of a request's JSON.

    Raises:
      DemoError: if it is none, or out of its range.
    """
    value = body.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise DemoError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return value


def check_fields(body: Any, known: tuple[str, ...]) -> None:
    """Refuse a body that is no mapping, or has other fields.

    Raises:
      DemoError: naming them.
    """
    if not isinstance(body, Mapping):
        raise DemoError("the body must be a JSON object")
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise DemoError(f"unknown: {', '.join(unknown)}; known here: {', '.join(known)}")


def _with_file(name: str, text: Any, read: Any) -> np.ndarray:
    """What ``read`` makes of a file whose content is given in base64."""
    try:
        content = base64.b64decode(str(text).rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise DemoError(f"{name} must be a file in base64: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return read(path)
