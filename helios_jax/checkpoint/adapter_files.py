"""Adapter files and folders: finding the file, its tensors by key, and what its settings say."""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.checkpoint.adapter_names import strip_prefixes
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.other_files import check_is_file
from helios_jax.checkpoint.pth import View, load_pickle
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_file

KNOWN_FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
"""What Diffusers and PEFT call the file in an adapter's folder; the first that is there is read."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
PARTIAL = "transformer_partial"
"""Stem of the file beside an adapter that holds whole tensors that were trained with it."""

PEFT_CONFIG = "adapter_config.json"
PEFT_ALPHA = 8
"""PEFT's lora_alpha where its settings say nothing."""

SETTINGS = {
    "r": "r",
    "rank": "r",
    "lora_rank": "r",
    "lora_alpha": "lora_alpha",
    "alpha": "lora_alpha",
    "network_alpha": "lora_alpha",
    "use_rslora": "use_rslora",
}
"""What stands beside the tensors of a file that ``torch.save`` wrote, in PEFT's words."""

ALPHAS = "network_alphas"
"""Entry of a dictionary with the alpha of each module."""

MAX_PATTERN = 500
MAX_REPEATS = 3
"""Letters and repetitions of one of PEFT's patterns: each of the latter multiplies the time that it
takes, and nested ones take for ever.
"""

MAX_STRENGTH = 1e6
"""Far beyond any use, and far from what overflows."""

CHANGES_THE_SUM = {
    "use_dora": "a DoRA adapter",
    "use_qalora": "a QA-LoRA adapter",
    "use_bdlora": "a block-diagonal LoRA",
    "alora_invocation_tokens": "an activated LoRA",
    "arrow_config": "an Arrow mixture of LoRAs",
    "kasa_config": "a KaSA adapter",
    "monteclora_config": "a MonteCLoRA adapter",
    "layer_replication": "an adapter of repeated layers",
    "trainable_token_indices": "an adapter with trained tokens",
    "target_parameters": "an adapter of bare parameters",
    "fan_in_fan_out": "an adapter of transposed weights",
}
"""PEFT's settings that make something else than ``W + (alpha / r) B A``, and what of it."""

CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that take the adapter's first value out of the base's weights."""


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """An adapter, and how much of it is merged.

    Attributes:
      path: its file, or a folder that holds one.
      strength: what every change is multiplied by; 0 changes nothing, and it may be negative.

    Raises:
      CheckpointError: if the strength is NaN, or too large for a weight.
    """

    path: Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.strength) <= MAX_STRENGTH:  # nor is NaN
            raise CheckpointError(
                f"{self.path}: its strength is {self.strength}, and not a number between "
                f"{-MAX_STRENGTH:g} and {MAX_STRENGTH:g}"
            )

    @classmethod
    def parse(cls, text: str) -> "AdapterFile":
        """``FILE`` or ``FILE:STRENGTH``; a file that has the whole text as its name comes first.

        Raises:
          CheckpointError: if what stands after the colon is no number.
        """
        if _is_there(text):
            return cls(_expanded(text))
        head, _, tail = text.rpartition(":")
        if not head or tail.startswith(("/", "\\")):  # no colon, or that of a drive
            return cls(_expanded(text))
        try:
            strength = float(tail)
        except ValueError:
            if not _is_there(head):
                return cls(_expanded(text))
            raise CheckpointError(
                f"{text}: {tail!r} is not a strength; write {head}:0.8, or {head} for 1"
            ) from None
        return cls(_expanded(head), strength)


def _expanded(text: str) -> Path:
    """A path, with the folder of a user for ``~``."""
    with contextlib.suppress(RuntimeError):  # there is no such user
        return Path(text).expanduser()
    return Path(text)


def _is_there(text: str) -> bool:
    """Whether there is something of this name; no file has one that is too long."""
    try:
        return bool(text) and _expanded(text).exists()
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class AdapterTensors:
    """What an adapter's file holds, as it stands there.

    Attributes:
      file: that was read.
      tensors: by key.
      settings: PEFT's, without prefixes; empty where there are none.
      settings_file: where they stand.
    """

    file: Path
    tensors: Mapping[str, TorchTensor]
    settings: Mapping[str, Any]
    settings_file: Path


def read_adapter_tensors(path: Path) -> AdapterTensors:
    """Read an adapter's file: safetensors, or a dictionary that ``torch.save`` wrote; and its
    settings, from its metadata or from an ``adapter_config.json`` beside it.

    Raises:
      CheckpointError: if there is no such file, it is damaged, or its settings ask for something
        else than a LoRA.
    """
    file = find_adapter_file(path)
    settings_file = file
    if _is_pickle(file):
        tensors, settings = _read_pickle(file)
    else:
        tensors, metadata = read_file(file)
        settings = _metadata_settings(file, metadata)
    if not settings and (file.parent / PEFT_CONFIG).is_file():
        settings_file = file.parent / PEFT_CONFIG
        settings = read_json(settings_file)
    _check_settings(settings_file, settings)
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors")
    return AdapterTensors(file, tensors, settings, settings_file)


def find_adapter_file(path: Path) -> Path:
    """The file itself, or the one adapter in a folder.

    Raises:
      CheckpointError: if there is none, or several that might be meant.
    """
    if not path.is_dir():
        if not _is_there(str(path)):
            name = str(path) if len(str(path)) < 300 else f"{str(path)[:300]}..."
            raise CheckpointError(f"{name} is not there: --lora takes a file or a folder")
        check_is_file(path)
        return path
    known = [path / name for name in KNOWN_FILES if (path / name).is_file()]
    if not known:  # PEFT has a folder for each name of an adapter
        known = [file for name in KNOWN_FILES for file in sorted(path.glob(f"*/{name}"))]
    if len({file.with_suffix("") for file in known}) > 1:
        names = ", ".join(file.relative_to(path).as_posix() for file in known[:3])
        raise CheckpointError(f"{path} has {len(known)} files that may be one ({names}): name it")
    if known:
        return known[0]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    files = [file for file in files if not file.stem.startswith(PARTIAL)]
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files[:3])
    found = f"{len(files)} files that may be one ({names}): name it" if files else "no adapter"
    raise CheckpointError(f"{path} has {found}; in a folder {KNOWN_FILES[0]} is looked for")


def scale_of(
    found: AdapterTensors, names: tuple[str, str], rank: int, own_alpha: float | None
) -> float:
    """``alpha / r`` of a module: its own alpha's, else that of the settings, else 1.

    Args:
      found: the file.
      names: of the module, in the file and in Diffusers, for PEFT's patterns.
      rank: of its factors.
      own_alpha: that the file has for the module.

    Raises:
      CheckpointError: if the settings say another rank, or no number.
    """
    settings = found.settings
    if own_alpha is not None and found.settings_file != found.file:
        settings = {}  # what stands beside a file that says it all may be another file's
    try:
        stated = _matching(settings.get("rank_pattern"), names, settings.get("r"))
        if stated is not None and _number(stated) != rank:
            raise CheckpointError(
                f"{found.settings_file} says rank {str(stated)[:50]} of {names[0]}, whose factors "
                f"in {found.file.name} have rank {rank}: are these the settings of this file?"
            )
        alpha = own_alpha
        if alpha is None and settings:
            own = settings.get("lora_alpha", PEFT_ALPHA)
            alpha = _matching(settings.get("alpha_pattern"), names, own)
        alpha = rank if alpha is None else _number(alpha)
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{found.file}: the scale of {names[0]}, of rank {rank}, cannot be told from its alpha"
        ) from error
    if not math.isfinite(scale):
        raise CheckpointError(f"{found.file}: the alpha of {names[0]} is not a finite number")
    if abs(scale) > MAX_STRENGTH:
        raise CheckpointError(
            f"{found.file}: the alpha of {names[0]} is {alpha:g}, {scale:g} times its rank: beyond "
            "all use"
        )
    return scale


def _number(value: Any) -> float:
    """A number of the settings, which may be written as a string.

    Raises:
      TypeError, ValueError: if it is none.
    """
    if isinstance(value, bool):
        raise TypeError("a switch is no number")
    return float(value)


def _matching(patterns: Mapping[str, Any] | None, names: tuple[str, str], default: Any) -> Any:
    """The value of the first of PEFT's patterns that a module's name, or the end of it, matches."""
    for pattern, value in (patterns or {}).items():
        repeats = len(re.findall(r"[*+?{]", pattern))
        nested = re.search(r"\)[*+?{]", pattern)
        if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS or nested:
            raise ValueError("a pattern of the settings is too long, or repeats too much")
        if any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in names):
            return value
    return default


def _is_pickle(file: Path) -> bool:
    """Whether ``torch.save`` wrote a file: as a zip archive, or as a bare pickle before 1.6."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    named = file.suffix in SUFFIXES[1:]
    return start == b"PK\x03\x04" or (named and start[:1] == b"\x80")


def _read_pickle(file: Path) -> tuple[dict[str, TorchTensor], dict[str, Any]]:
    """The tensors of a dictionary, or of the one dictionary of tensors inside of it, and what
    stands beside them of PEFT's settings.
    """
    state = load_pickle(file, {})
    settings: dict[str, Any] = {}
    alphas: dict[str, Any] = {}
    while isinstance(state, dict) and not any(isinstance(part, View) for part in state.values()):
        inner = {name: part for name, part in state.items() if isinstance(part, dict)}
        alphas |= _named_alphas(inner.pop(ALPHAS, {}))
        holders = [part for part in inner.values() if _holds_tensors(part)]
        for part in (state, *(part for part in inner.values() if part not in holders)):
            settings |= _settings(file, part)
        state = holders[0] if len(holders) == 1 else None
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{file} does not hold one dictionary of tensors: save that of the adapter alone"
        )
    tensors = {}
    alphas |= _named_alphas(state.get(ALPHAS, {}))
    for name, part in (state | alphas).items():
        if name in SETTINGS:
            settings[SETTINGS[name]] = part
        elif name == ALPHAS:
            continue
        elif isinstance(part, View):
            tensors[str(name)] = part.tensor()
        elif isinstance(part, int | float):
            number = np.asarray(part, np.float32)
            tensors[str(name)] = TorchTensor(number.dtype, (), number.copy)
        else:
            raise CheckpointError(
                f"{file}: {str(name)[:80]} is a {type(part).__name__}, not a tensor"
            )
    return tensors, settings


def _settings(file: Path, part: Mapping[Any, Any]) -> dict[str, Any]:
    """PEFT's settings that stand in a dictionary, or in one of those in it by adapter.

    Raises:
      CheckpointError: if a number there scales the adapter in a way that is not known.
    """
    found = {}
    for name, value in part.items():
        if name in SETTINGS:
            found[SETTINGS[name]] = value
        elif isinstance(value, dict) and len(part) == 1:  # {"default": {"r": 4, ...}}
            found |= {SETTINGS[key]: value[key] for key in SETTINGS if key in value}
        elif isinstance(value, int | float) and re.search("scal|alpha|strength", str(name)):
            raise CheckpointError(
                f"{file}: {str(name)[:50]}={value} stands beside its tensors, and may scale them: "
                "it is not read; save the adapter with lora_alpha, or without"
            )
    return found


def _named_alphas(alphas: Any) -> dict[str, Any]:
    """Alphas by module, as Diffusers hands them on, under the keys that they have in a file."""
    if not isinstance(alphas, dict):
        return {}
    return {f"{str(name).removesuffix('.alpha')}.alpha": value for name, value in alphas.items()}


def _holds_tensors(part: Any) -> bool:
    """Whether a value is a tensor, or a dictionary that has one somewhere; a damaged file may hold
    dictionaries that hold themselves.
    """
    waiting = [part]
    seen = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, View):
            return True
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values()
    return False


def _metadata_settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings, which Diffusers stores as JSON in the file's metadata, prefixed like the
    tensors; empty if absent.
    """
    try:
        stored = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        return {strip_prefixes(name): value for name, value in stored.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: its lora_adapter_metadata is not a JSON dictionary"
        ) from error


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings that mean another sum than a LoRA's."""
    kind = str(settings.get("peft_type") or "LORA")
    if kind.upper() not in ("LORA", "PEFTTYPE.LORA"):
        raise CheckpointError(f"{file}: this is a {kind[:40]} adapter; only a LoRA can be merged")
    for name, what in CHANGES_THE_SUM.items():
        if settings.get(name):
            raise CheckpointError(f"{file}: {name} says that this is {what}, which is not merged")
    for name, value in settings.items():
        if name.startswith("use_") and not isinstance(value, bool | None):
            raise CheckpointError(f"{file}: {name}={str(value)[:50]!r} is neither true nor false")
        if name.startswith("use_") and value and name != "use_rslora":
            raise CheckpointError(f"{file}: {name} is not known, and may change what is merged")
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(CHANGES_THE_BASE):
        raise CheckpointError(
            f"{file}: init_lora_weights={start[:40]!r} began with changed base weights: convert it "
            "to a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        )
