"""Weights stored in eight bits with a scale beside each, as ComfyUI's users have them.

``X.weight`` in float8 comes with ``X.scale_weight`` (or ``X.weight_scale``), one number or one for
each row, and perhaps with scales for activations, which a wider weight does not need. Float8
without scales, a plain cast, is widened the same way.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.safetensors_files import TorchTensor

FLOAT8 = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))

SCALES = ("scale_weight", "weight_scale")
"""Last parts of the names of a weight's scale."""

BESIDE = (*SCALES, "scale_input", "input_scale", "comfy_quant", "scaled_fp8")
"""Last parts of the names of what stands beside weights in float8."""

FORMATS = ("float8_e4m3fn", "float8_e5m2")
"""Formats of ``comfy_quant`` that are read."""


def packed(tensors: Mapping[str, TorchTensor]) -> list[str]:
    """Names of the tensors that are stored in eight bits."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.dtype in FLOAT8 and name.rpartition(".")[2] not in BESIDE
    ]


def widened(path: Path, tensors: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
    """Tensors in which those of float8 are float32, times their scales; each is computed when it is
    read.

    Raises:
      CheckpointError: naming a weight whose scale does not fit it, or of another format.
    """
    result = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        if last == "comfy_quant":
            _check_format(path, name, tensor)
        if last in BESIDE:
            continue
        names = [f"{module}.{scale}" for scale in SCALES]
        found = [tensors[scale] for scale in names if last == "weight" and scale in tensors]
        if tensor.dtype in FLOAT8 or found:  # a scale counts beside a wider weight, too
            result[name] = _widen(path, name, tensor, found[0] if found else None)
        else:
            result[name] = tensor
    return result


def _widen(path: Path, name: str, tensor: TorchTensor, scale: TorchTensor | None) -> TorchTensor:
    shape: tuple[int, ...] = ()
    if scale is not None:
        count = int(np.prod(scale.shape))
        if count not in (1, tensor.shape[0]):
            raise CheckpointError(
                f"{path}: the scale of {name} is {list(scale.shape)}, and the weight "
                f"{list(tensor.shape)}: neither one number nor one for each row"
            )
        shape = (count, *[1] * (len(tensor.shape) - 1))

    def read() -> np.ndarray:
        values = tensor.read().astype(np.float32)
        if scale is not None:
            values *= scale.read().astype(np.float32).reshape(shape)
        return values

    return TorchTensor(np.dtype(np.float32), tensor.shape, read)


def _check_format(path: Path, name: str, tensor: TorchTensor) -> None:
    """Refuse a format of ``comfy_quant``, JSON in bytes, that is not read."""
    try:
        stated = json.loads(tensor.read().tobytes()).get("format")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {name} is no JSON dictionary") from error
    if stated not in FORMATS:
        raise CheckpointError(
            f"{path}: {name} says format {stated!r}, which is not read, only "
            f"{' and '.join(FORMATS)} are: take the release in bfloat16 or float16"
        )
