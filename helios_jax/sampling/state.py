"""The state of a video between two chunks: enough for another process to go on with it.

A file holds the arrays, everything else as JSON, and a digest over both. What it says is compared
with what its request needs, and with its digest, before anything is built from it.
"""

import json
import logging
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from helios_jax.config import to_dict
from helios_jax.diffusion.drift import DriftStatistics
from helios_jax.diffusion.history import HistoryState
from helios_jax.sampling.prompts import PromptSchedule
from helios_jax.sampling.request import Request, RequestError
from helios_jax.sampling.state_schema import (
    FORMAT,
    HISTORY,
    check_layout,
    check_values,
    layout,
    read_description,
)
from helios_jax.writers import tensor_bytes, tensor_digest, write_whole


class VideoState(NamedTuple):
    """All that the rest of a video depends on, beside the weights. Its size does not depend on how
    much of the video there is.

    Attributes:
      chunk: number of chunks made, the index of the next.
      history: the frames it continues.
      prompts: from that chunk on.
      text_rows: rows of text that the programs read.
      drift: running statistics, where drift is controlled.
      request: what is made, with the configuration of the model that makes it.
    """

    chunk: int
    history: HistoryState
    prompts: PromptSchedule
    text_rows: int
    drift: DriftStatistics | None
    request: Request


def save_state(path: str | os.PathLike, state: VideoState) -> None:
    """Write a state as a safetensors file, which appears whole or not at all and replaces an older
    one.

    Raises:
      WriteError: if it cannot be written.
    """
    tensors = {f"history/{name}": array for name, array in zip(HISTORY, state.history)}
    if state.drift is not None:
        tensors |= {f"drift/{name}": array for name, array in state.drift._asdict().items()}
    arrays = {name: np.asarray(array) for name, array in jax.device_get(tensors).items()}
    rest = {
        "chunk": state.chunk,
        "prompts": state.prompts,
        "text_rows": state.text_rows,
        "request": state.request.arguments(),
        "config": to_dict(state.request.config),
    }
    metadata = {"format": FORMAT, "state": json.dumps(rest)}
    metadata["digest"] = tensor_digest(arrays, metadata)
    write_whole(path, tensor_bytes(arrays, metadata))


def load_state(path: str | os.PathLike) -> VideoState:
    """Read what :func:`save_state` wrote, in this version or an earlier one.

    Raises:
      RequestError: if the file is missing, altered, damaged, or something else.
    """
    try:
        return _read(path)
    except RecursionError as error:
        raise _refusal(path, "its values are nested too deeply") from error
    except (OSError, safetensors.SafetensorError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _refusal(path, reason) from error


def _read(path: str | os.PathLike) -> VideoState:
    open(path, "rb").close()  # the library takes every refusal of the system for a missing file
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata() or {})
        described = read_description(metadata)
        found = {}
        for name in file.keys():  # noqa: SIM118
            entry = file.get_slice(name)
            found[name] = (entry.get_dtype(), tuple(entry.get_shape()))
        check_layout(found, layout(described.request))
        arrays = {name: file.get_tensor(name) for name in found}
    digest = metadata.pop("digest", None)
    if digest is None:
        logging.getLogger(__name__).warning(
            "%s was saved by an earlier version, without a digest: alterations are not noticed",
            path,
        )
    elif digest != tensor_digest(arrays, metadata):
        raise ValueError("it is altered: its digest is not that of its content")
    check_values(arrays, described.chunk)
    history = [jnp.asarray(arrays[f"history/{name}"]) for name in HISTORY]
    drift = None
    if described.request.drift is not None:
        names = DriftStatistics._fields
        drift = DriftStatistics(*(jnp.asarray(arrays[f"drift/{name}"]) for name in names))
    return VideoState(history=HistoryState(*history), drift=drift, **described._asdict())


def _refusal(path: str | os.PathLike, reason: str) -> RequestError:
    words = " ".join(reason.split())
    return RequestError(f"{path} cannot be read as the saved state of a video: {words[:500]}")
