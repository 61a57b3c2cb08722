"""The state of a video between two chunks: enough for another process to go on with it."""

import json
import os
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
from helios_jax.sampling.request import RequestError

_FORMAT = "helios-jax video state 1"

_REQUESTED = {"height", "width", "num_frames", "fps", "steps", "guidance_scale", "negative_prompt"}
"""Defaults of a configuration that have no say once a request is made."""


class VideoState(NamedTuple):
    """All that the rest of a video depends on, beside the weights. Its size does not depend on how
    much of the video there is.

    Attributes:
      chunk: number of chunks made, the index of the next.
      history: the frames it continues.
      prompts: from that chunk on.
      text_rows: rows of text that the programs read.
      drift: running statistics, where drift is controlled.
      options: the arguments of ``HeliosPipeline.stream`` that fix the video: its size, seed, steps
        and so on.
      config: of the model and the sampler.
    """

    chunk: int
    history: HistoryState
    prompts: PromptSchedule
    text_rows: int
    drift: DriftStatistics | None
    options: dict[str, Any]
    config: HeliosConfig


def save_state(path: str | os.PathLike, state: VideoState) -> None:
    """Write a state as a safetensors file, which appears whole or not at all and replaces an older
    one.
    """
    tensors = {f"history/{name}": array for name, array in state.history._asdict().items()}
    if state.drift is not None:
        tensors |= {f"drift/{name}": array for name, array in state.drift._asdict().items()}
    rest = state._replace(history=None, drift=None, config=to_dict(state.config))._asdict()
    with staged(Path(os.path.abspath(path))) as partial:
        safetensors.numpy.save_file(
            jax.device_get(tensors), partial, {"format": _FORMAT, "state": json.dumps(rest)}
        )


def load_state(path: str | os.PathLike) -> VideoState:
    """Read what :func:`save_state` wrote.

    Raises:
      RequestError: if the file is missing, damaged, or something else.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise RequestError(
                    f"{path} is not a saved state of a video: its format is {metadata.get('format')!r}, not {_FORMAT!r}"
                )
            names = file.keys()
            arrays = {name: jnp.array(file.get_tensor(name)) for name in names}
        rest = json.loads(metadata["state"])
        prompts = [
            PromptChange(chunk, tuple(prompts), blend)
            for chunk, prompts, blend in rest["prompts"][0]
        ]
        return VideoState(
            chunk=rest["chunk"],
            history=HistoryState(*(arrays[f"history/{name}"] for name in HistoryState._fields)),
            prompts=PromptSchedule(tuple(prompts), rest["prompts"][1]),
            text_rows=rest["text_rows"],
            drift=DriftStatistics(*(arrays[f"drift/{name}"] for name in DriftStatistics._fields))
            if "drift/mean" in arrays
            else None,
            options=rest["options"],
            config=from_dict(HeliosConfig, rest["config"]),
        )
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"{path} cannot be read as the saved state of a video: {error}"
        ) from error


def check_config(state: VideoState, config: HeliosConfig) -> None:
    """Refuse a state made by another model or sampler.

    Raises:
      RequestError: naming every field that differs.
    """
    there, here = _fields(state.config), _fields(config)
    differing = [
        f"{name} was {there[name]}, is {here[name]}" for name in there if there[name] != here[name]
    ]
    if differing:
        raise RequestError(
            f"the state to resume was made with another configuration: {'; '.join(differing)}"
        )


def _fields(config: HeliosConfig) -> dict[str, Any]:
    """Every field that has a say, by its full name."""
    sections = to_dict(config).items()
    return {f"{section}.{name}": value for section, fields in sections for name, value in fields.items()
            if section != "sample" or name not in _REQUESTED}  # fmt: skip
