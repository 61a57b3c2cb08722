"""Training records: a clip as latents and text features, in one safetensors blob each.

A dataset is a folder::

    dataset.json                     what holds for all of it (DatasetInfo): sizes, and which VAE
                                     and text encoder made it
    clips-00000.array_record         records: the tensors `latents` and `text`, with the prompt and
                                     the metadata as JSON
    clips-00000.jsonl                its index, one Entry a line; written last, so that a shard is
                                     there once its index is
    clips-00000.skipped.jsonl        inputs that were left out, and why

ArrayRecord gives random access and a checksum for every record. Nothing here is a pickle.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from helios_jax.data.errors import DataError, RecordError
from helios_jax.types import Float

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""Dtypes that latents and text may be stored in, by their names in safetensors."""


class Record(NamedTuple):
    """A clip.

    Attributes:
      latents: S sections of T latent frames, each encoded by itself, in model space; float32 or
        bfloat16.
      text: features of the prompt's n tokens; float32 or bfloat16. Batches pad them with zeros.
      prompt: the caption.
      metadata: ``id``, ``source`` and ``frames``, and whatever else is known of the clip.
    """

    latents: Float[np.ndarray, "S T H W C"]
    text: Float[np.ndarray, "n E"]
    prompt: str
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A line of an index: what an epoch is planned from, without reading the record.

    Attributes:
      id: the record's name, unique in its folder.
      prompt: the caption.
      sections: S, sections of latents.
      height, width: H and W, latent rows and columns.
      tokens: n, rows of text features.
      frames: frames of the clip that the record was made from.
      source: the file, or the scene of the procedural world, that it was made from.
    """

    id: str
    prompt: str
    sections: int
    height: int
    width: int
    tokens: int
    frames: int
    source: str


_ENTRY_TYPES = get_type_hints(Entry)


def to_bytes(record: Record) -> bytes:
    """A record as a safetensors blob.

    Raises:
      RecordError: if it has another shape or dtype than :class:`Record` says, or values that are
        not finite.
    """
    tensors = {
        "latents": np.ascontiguousarray(record.latents),
        "text": np.ascontiguousarray(record.text),
    }
    _check(tensors)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise RecordError(f"{name} has values that are not finite")
    # One string: safetensors does not keep the order of several from run to run.
    metadata = {"record": json.dumps({"prompt": record.prompt, **record.metadata})}
    return safetensors.numpy.save(tensors, metadata)


def from_bytes(blob: bytes) -> Record:
    """The inverse of :func:`to_bytes`.

    Raises:
      RecordError: saying what is wrong with the blob.
    """
    try:
        found = dict(safetensors.deserialize(blob))
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        metadata = json.loads(header["__metadata__"]["record"])
        prompt = metadata.pop("prompt")
        tensors = {name: _to_array(name, tensor) for name, tensor in found.items()}
    except RecordError:
        raise
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise RecordError(f"not a record: {type(error).__name__}: {error}") from error
    if not isinstance(prompt, str):
        raise RecordError(f"not a record: its prompt is of type {type(prompt).__name__}")
    _check(tensors)
    return Record(tensors["latents"], tensors["text"], prompt, metadata)


def index_entry(record: Record) -> Entry:
    """A record's line in the index; ``id``, ``frames`` and ``source`` come from its metadata."""
    sections, _, height, width, _ = record.latents.shape
    return Entry(
        id=record.metadata["id"],
        prompt=record.prompt,
        sections=sections,
        height=height,
        width=width,
        tokens=len(record.text),
        frames=record.metadata["frames"],
        source=record.metadata["source"],
    )


def to_entry(line: Any) -> Entry:
    """A line of an index as an entry.

    Raises:
      DataError: naming the field that is missing or of another type.
    """
    if not isinstance(line, dict) or line.keys() != _ENTRY_TYPES.keys():
        raise DataError(f"a line must have the fields {', '.join(_ENTRY_TYPES)}")
    for name, kind in _ENTRY_TYPES.items():
        if type(line[name]) is not kind or (kind is int and line[name] < 0):
            raise DataError(f"{name}={line[name]!r} must be of type {kind.__name__}")
    return Entry(**line)


def _to_array(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    """A tensor as safetensors deserializes it, as an array over the same bytes."""
    if tensor["dtype"] not in DTYPES:
        raise RecordError(f"{name} is of dtype {tensor['dtype']}, not one of {', '.join(DTYPES)}")
    return np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])


def _check(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse tensors that are not those of a record."""
    ranks = {name: tensor.ndim for name, tensor in tensors.items()}
    known = all(tensor.dtype in DTYPES.values() for tensor in tensors.values())
    filled = all(tensor.size for tensor in tensors.values())
    if ranks != {"latents": 5, "text": 2} or not known or not filled:
        shapes = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
        raise RecordError(
            "a record has latents [S, T, H, W, C] and text [n, E], float32 or bfloat16, "
            f"not {shapes}"
        )
