"""The state of a video between two chunks: enough for another process to go on with it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy

from helios_jax.config import HeliosConfig, from_dict, to_dict
from helios_jax.diffusion.drift import DriftStatistics
from helios_jax.diffusion.history import HistoryState
from helios_jax.media.output import staged
from helios_jax.sampling.prompts import PromptChange, PromptSchedule
from helios_jax.sampling.request import Request, RequestError, read_request
from helios_jax.types import Array

FORMAT = "helios-jax video state 2"
OLD_FORMAT = "helios-jax video state 1"
"""Of files that have some fields of the request, as ``options``, and not its batch."""

HISTORY = ("ring", "anchor", "anchored")
"""Names of the arrays of :class:`HistoryState` in a file, in its order."""


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
    """
    tensors = {f"history/{name}": array for name, array in zip(HISTORY, state.history)}
    if state.drift is not None:
        tensors |= {f"drift/{name}": array for name, array in state.drift._asdict().items()}
    rest = {
        "chunk": state.chunk,
        "prompts": state.prompts,
        "text_rows": state.text_rows,
        "request": state.request.arguments(),
        "config": to_dict(state.request.config),
    }
    metadata = {"format": FORMAT, "state": json.dumps(rest)}
    with staged(Path(os.path.abspath(path))) as partial:
        safetensors.numpy.save_file(jax.device_get(tensors), partial, metadata)


def load_state(path: str | os.PathLike) -> VideoState:
    """Read what :func:`save_state` wrote, in this version or an earlier one.

    Raises:
      RequestError: if the file is missing, damaged, or something else.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: jnp.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") not in (FORMAT, OLD_FORMAT):
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        return _read(json.loads(metadata["state"]), arrays)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} cannot be read as the saved state of a video: {error}"
        ) from error


def _read(rest: Mapping[str, Any], arrays: Mapping[str, Array]) -> VideoState:
    """The state from a file's strings and arrays."""
    entries, chunks = rest["prompts"]
    changes = []
    for chunk, prompts, blend in entries:
        changes.append(PromptChange(chunk, tuple(prompts), blend))
    drift = None
    if "drift/mean" in arrays:
        drift = DriftStatistics(*(arrays[f"drift/{name}"] for name in DriftStatistics._fields))
    # Files of the old format do not say the batch, which their prompts tell.
    fields = rest.get("request") or {"batch": len(changes[0].prompts), **rest["options"]}
    return VideoState(
        chunk=rest["chunk"],
        history=HistoryState(*(arrays[f"history/{name}"] for name in HISTORY)),
        prompts=PromptSchedule(tuple(changes), chunks),
        text_rows=rest["text_rows"],
        drift=drift,
        request=read_request(from_dict(HeliosConfig, rest["config"]), fields),
    )
