"""Merging what was trained into a base transformer: a LoRA file, and a partial file of whole
tensors.

A LoRA holds ``A [r, in]`` and ``B [out, r]`` for each adapted weight, ``W <- W + (alpha / r) B A``;
for a convolution, ``A`` has the kernel's shape behind its ``r``. A partial file holds tensors
trained in full. First the partial file replaces, then the LoRA adds; where both have a history
patch (``patch_short``, ``patch_mid``, ``patch_long``), only the LoRA applies, as in the original
implementation.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.checkpoint import wan
from helios_jax.checkpoint.errors import CheckpointError, summarise
from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.pth import read_pth
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_file

Tensors = Mapping[str, TorchTensor]
Adapters = dict[str, tuple[TorchTensor, TorchTensor, float]]
"""``A``, ``B`` and ``alpha / r`` by the name of the weight they change."""
Weights = dict[str, tuple[Path, TorchTensor]]
"""Weights that are stored in full, by name, each with its file."""

PREFIXES = ("transformer.", "diffusion_model.")
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>A|B|down|up)(\.default)?\.weight$")
_WAN_MODULE = re.compile(
    r"\.(self_attn|cross_attn|ffn\.[02])\.|^(time|text)_embedding\.|^time_projection\.|^head\."
)
_DISCRIMINATOR = re.compile(r"^gan_(heads|final_head)\.")
_PATCH = re.compile(r"^(patch_(?:short|mid|long))\.")


def merge(tensors: Tensors, lora: Path | None, partial: Path | None) -> dict[str, TorchTensor]:
    """The transformer's tensors with a partial file and a LoRA merged in; each is computed, in
    float32, when it is read.

    Args:
      tensors: the base, in Diffusers' names.
      lora: a ``pytorch_lora_weights.safetensors``.
      partial: a ``transformer_partial.pth``.

    Returns:
      The tensors in the base's dtypes, and ``history_key_scale`` where the partial file has it.

    Raises:
      CheckpointError: if a file cannot be read, or holds tensors the base has no place for or of
        another shape.
    """
    merged = dict(tensors)
    adapters: Adapters = {}
    weights: Weights = {}
    if lora:
        adapters, weights = _read_lora(lora)
    adapted = {match[1] for name in adapters if (match := _PATCH.match(name))}
    if partial:
        for name, value in _read_partial(partial).items():
            if (match := _PATCH.match(name)) is None or match[1] not in adapted:
                weights.setdefault(name, (partial, value))
    _check(merged, weights, adapters, lora)
    for name, (_, value) in weights.items():
        merged[name] = _cast(value, merged[name].dtype) if name in merged else value
    for name, (down, up, scale) in adapters.items():
        merged[name] = _adapted(merged[name], down, up, scale)
    return merged


def _read_lora(path: Path) -> tuple[Adapters, Weights]:
    """The adapters of a LoRA file, and the weights that it stores in full (norms)."""
    tensors, metadata = read_file(path)
    tensors = {wan.rename(_strip(name), wan.MUSUBI): tensor for name, tensor in tensors.items()}
    if any(_WAN_MODULE.search(name) for name in tensors):
        tensors = {wan.rename(name, wan.TRANSFORMER): tensor for name, tensor in tensors.items()}
    factors: dict[str, dict[str, TorchTensor]] = {}
    alphas: dict[str, float] = {}
    weights: Weights = {}
    for name, tensor in tensors.items():
        if match := _FACTOR.match(name):
            side = {"down": "A", "up": "B"}.get(match["factor"], match["factor"])
            factors.setdefault(match["module"], {})[side] = tensor
        elif name.endswith(".alpha"):
            if math.prod(tensor.shape) != 1:
                raise CheckpointError(f"{path}: {name} is {list(tensor.shape)}, not one number")
            alphas[name.removesuffix(".alpha")] = float(tensor.read().reshape(-1)[0])
        else:
            weights[name] = (path, tensor)
    if single := [module for module, pair in factors.items() if len(pair) == 1]:
        names = ", ".join(summarise(dict.fromkeys(single, "")))
        raise CheckpointError(f"{path}: only one of lora_A and lora_B of {names}")
    if flat := [module for module, pair in factors.items() if not pair["A"].shape]:
        raise CheckpointError(f"{path}: lora_A of {flat[0]} has no dimensions")
    settings = _adapter_config(path, metadata)
    adapters: Adapters = {}
    for module, pair in factors.items():
        scale = _scale(path, module, pair["A"].shape[0], alphas, settings)
        adapters[f"{module}.weight"] = (pair["A"], pair["B"], scale)
    return adapters, weights


def _adapter_config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings, which Diffusers stores as JSON in the file's metadata, prefixed like the
    tensors; empty if absent.
    """
    try:
        stored = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        settings = {_strip(name): value for name, value in stored.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its lora_adapter_metadata is not a JSON dictionary"
        ) from error
    if settings.get("use_dora"):
        raise CheckpointError(f"{path} is a DoRA, which cannot be merged as a LoRA")
    return settings


def _scale(
    path: Path,
    module: str,
    rank: int,
    alphas: Mapping[str, float],
    settings: Mapping[str, Any],
) -> float:
    """``alpha / r``: of the module's own ``alpha``, else of the adapter's settings, else 1."""
    try:
        alpha = settings.get("lora_alpha", rank)
        for pattern, value in (settings.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = value
                break
        alpha = float(alphas.get(module, alpha))
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, re.error) as error:
        raise CheckpointError(
            f"{path}: the scale of {module}, of rank {rank}, cannot be told from its alpha"
        ) from error


def _read_partial(path: Path) -> dict[str, TorchTensor]:
    tensors = read_file(path)[0] if path.suffix == ".safetensors" else read_pth(path)
    # The discriminator's heads are trained along with the generator and are no part of it.
    return {
        _strip(name): tensor
        for name, tensor in tensors.items()
        if not _DISCRIMINATOR.match(_strip(name))
    }


def _strip(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _check(base: Tensors, weights: Weights, adapters: Adapters, lora: Path | None) -> None:
    """Refuse tensors that have no place in the base, or do not fit theirs."""
    problems = {}
    for name, (path, value) in weights.items():
        if name not in base and not name.endswith(".attn1.history_key_scale"):
            problems[f"{path}: {name}"] = " has no place in the base"
        elif name in base and value.shape != base[name].shape:
            problems[f"{path}: {name}"] = (
                f" is {list(value.shape)}, the base's is {list(base[name].shape)}"
            )
    for name, (down, up, _) in adapters.items():
        if name not in base:
            problems[f"{lora}: LoRA of {name}"] = " has no place in the base"
        elif not _fits(base[name].shape, down.shape, up.shape):
            problems[f"{lora}: LoRA of {name}"] = (
                f" is {list(up.shape)} x {list(down.shape)}, the base's weight is "
                f"{list(base[name].shape)}"
            )
    if problems:
        cause = ""
        if any("_loras." in name for name in problems):
            cause = "; q_loras, k_loras and v_loras are artefacts of training with restrict_lora"
        raise CheckpointError(f"cannot merge: {', '.join(summarise(problems))}{cause}")


def _fits(weight: Shape, down: Shape, up: Shape) -> bool:
    """Whether the product of two factors, ``up`` [out, r, ...] and ``down`` [r, in, ...], is a
    change of a weight.
    """
    return (
        len(up) > 1
        and len(weight) > 1
        and math.prod(up[1:]) == down[0]
        and up[0] == weight[0]
        and math.prod(down[1:]) == math.prod(weight[1:])
    )


def _cast(tensor: TorchTensor, dtype: np.dtype) -> TorchTensor:
    return TorchTensor(dtype, tensor.shape, lambda: tensor.read().astype(dtype, copy=False))


def _adapted(base: TorchTensor, down: TorchTensor, up: TorchTensor, scale: float) -> TorchTensor:
    def read() -> np.ndarray:
        A = down.read().astype(np.float32)
        B = up.read().astype(np.float32)
        change = (np.float32(scale) * B.reshape(B.shape[0], -1)) @ A.reshape(A.shape[0], -1)
        change = change.reshape(base.shape)
        change += base.read()
        return change.astype(base.dtype, copy=False)

    return TorchTensor(base.dtype, base.shape, read)
