"""Latents that an earlier run has kept of a video which is resumed."""

from collections.abc import Mapping

import numpy as np

from helios_jax import media
from helios_jax.sampling.request import RequestError
from helios_jax.sampling.state import VideoState

FIRST_CHUNK = "first_chunk"
"""Metadata of latents that do not begin with their video."""


def check_latents(path: str, start: VideoState) -> dict[str, str]:
    """Refuse to go on with latents that are not of the video that is resumed.

    Returns:
      Their metadata.

    Raises:
      RequestError: if they have another size, too few frames, or end otherwise than the video does.
      MediaError: if the file cannot be read.
    """
    latents, metadata = media.load_latents(path, verify=False)
    request = start.request
    T, *cells = request.latent_shape
    frames = T * (start.chunk - first_chunk(path, metadata))
    B, there, *found = latents.shape
    if (B, found) != (request.batch, cells):
        raise RequestError(
            f"{path} has latents of shape {list(latents.shape)}, the video has "
            f"{[request.batch, frames, *cells]}: name another file"
        )
    if not 0 <= frames <= there:
        raise RequestError(
            f"{path} has {there} latent frames, but {frames} of the video are made: name another "
            "file"
        )
    # The model's memory is of the last chunk itself, where that is not corrupted against drift.
    last = latents[:, frames - T : frames]
    memory = np.asarray(start.history.window[:, -T:])
    if frames and request.drift is None and not np.array_equal(last, memory):
        raise RequestError(f"{path} has the latents of another video: name another file")
    return metadata


def first_chunk(path: str, metadata: Mapping[str, str]) -> int:
    """The chunk of the video with which latents begin.

    Raises:
      MediaError: if the metadata have something else there.
    """
    word = metadata.get(FIRST_CHUNK, "0")
    if not (isinstance(word, str) and word.isdecimal() and len(word) < 9):
        raise media.MediaError(f"{path}: {FIRST_CHUNK}={word!r} is no number of a chunk")
    return int(word)
