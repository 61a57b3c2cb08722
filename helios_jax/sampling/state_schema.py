"""What the file of a state must hold, checked before anything is built from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from helios_jax.config import HeliosConfig, from_dict
from helios_jax.models.umt5 import LENGTH_BUCKETS
from helios_jax.sampling.prompts import PromptChange, PromptSchedule, spread
from helios_jax.sampling.request import Request, read_request

FORMAT = "helios-jax video state 3"
FORMAT_2 = "helios-jax video state 2"
"""Of files without a digest."""
FORMAT_1 = "helios-jax video state 1"
"""Of files without a digest that have some fields of the request, as ``options``, and not its
batch.
"""

HISTORY = ("ring", "anchor", "anchored")
"""Names of the arrays of :class:`~helios_jax.diffusion.history.HistoryState` in a file, in its
order.
"""

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype, as safetensors names it, and shape of each array by name."""


class Description(NamedTuple):
    """All of a state but its arrays; see :class:`~helios_jax.sampling.state.VideoState`."""

    chunk: int
    prompts: PromptSchedule
    text_rows: int
    request: Request


def read_description(metadata: Mapping[str, str]) -> Description:
    """The strings of a file.

    Raises:
      ValueError: if anything is missing, of a wrong type, or out of its range.
    """
    version = metadata.get("format")
    if version not in (FORMAT, FORMAT_2, FORMAT_1):
        raise ValueError(f"its format is {version!r}, not {FORMAT!r}")
    wanted = {"format", "state"} | ({"digest"} if version == FORMAT else set())
    if metadata.keys() != wanted:
        raise ValueError(f"its metadata are {', '.join(metadata)}, not {', '.join(sorted(wanted))}")
    rest = json.loads(metadata["state"])
    own = "options" if version == FORMAT_1 else "request"
    if not isinstance(rest, dict):
        raise ValueError("it describes no state")
    if missing := {"chunk", "prompts", "text_rows", "config", own} - rest.keys():
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    for name in ("config", own):
        if not isinstance(rest[name], dict):
            raise ValueError(f"{name} must be a mapping of fields")
    fields = rest[own]
    if version == FORMAT_1:
        # The old format does not say the batch, which the prompts tell.
        entries, _ = _sequence("prompts", rest["prompts"], 2)
        _, prompts, _ = _sequence("prompts", _sequence("prompts", entries)[0], 3)
        fields = {"batch": len(_sequence("prompts", prompts)), **fields}
    request = read_request(from_dict(HeliosConfig, rest["config"]), fields)
    chunk = _whole("chunk", rest["chunk"], request.chunks)
    rows = max(LENGTH_BUCKETS[-1], request.config.text_encoder.max_sequence_length)
    return Description(
        chunk=chunk,
        prompts=_read_prompts(rest["prompts"], request.batch, chunk),
        text_rows=_whole("text_rows", rest["text_rows"], rows),
        request=request,
    )


def layout(request: Request) -> Layout:
    """The arrays of a request's states."""
    _, H, W, C = request.latent_shape
    B = request.batch
    frames = sum(request.config.sample.history_sizes)
    arrays: Layout = {
        "history/ring": ("F32", (B, frames, H, W, C)),
        "history/anchor": ("F32", (B, 1, H, W, C)),
        "history/anchored": ("BOOL", ()),
    }
    if request.drift is not None:
        arrays["drift/mean"] = ("F32", (B, C))
        arrays["drift/variance"] = ("F32", (B, C))
        arrays["drift/started"] = ("BOOL", ())
    return arrays


def check_layout(found: Layout, expected: Layout) -> None:
    """Refuse other arrays than those that are expected, before they are read.

    Raises:
      ValueError: naming them.
    """
    problems = []
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) == expected.get(name):
            continue
        if name not in found:
            problems.append(f"{name} is missing")
        elif name not in expected:
            problems.append(f"{name} is too much")
        else:
            (dtype, shape), (other, wanted) = found[name], expected[name]
            problems.append(f"{name} is {dtype}{list(shape)}, not {other}{list(wanted)}")
    if problems:
        raise ValueError("; ".join(problems))


def check_values(arrays: Mapping[str, np.ndarray], chunk: int) -> None:
    """Refuse values that no video has after ``chunk`` chunks.

    Raises:
      ValueError: naming the array.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are NaN or infinite")
        if array.dtype == bool and chunk and not array:
            raise ValueError(f"{name} is false after {chunk} chunks")
    if (arrays.get("drift/variance", np.zeros(1)) < 0).any():
        raise ValueError("drift/variance has values below 0")


def _read_prompts(value: Any, batch: int, chunk: int) -> PromptSchedule:
    """The schedule of a state, of which the first entry governs its chunk."""
    entries, chunks = _sequence("prompts", value, 2)
    changes = []
    for number, entry in enumerate(_sequence("prompts", entries)):
        start, prompts, blend = _sequence(f"prompts[{number}]", entry, 3)
        texts = _sequence(f"prompts[{number}]", prompts)
        if len(texts) != batch or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"prompts[{number}] must be {batch} strings")
        start = _whole("prompts", start)
        change = PromptChange(start, spread(texts, batch), _whole("blend", blend))
        if changes and change.chunk <= changes[-1].chunk:
            raise ValueError("the chunks of its prompts do not ascend")
        changes.append(change)
    if not changes or changes[0].chunk > chunk:
        raise ValueError(f"it has no prompt for chunk {chunk}")
    length = None if chunks is None else _whole("prompts", chunks)
    schedule = PromptSchedule(tuple(changes), length)
    schedule.at(chunk)  # a RecursionError of too many blends, one into the other
    return schedule


def _sequence(name: str, value: Any, length: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"{name} must be a list{'' if length is None else f' of {length}'}")
    return value


def _whole(name: str, value: Any, most: int = 2**31) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name}={str(value)[:50]} must be a whole number from 0 to {most}")
    return value
