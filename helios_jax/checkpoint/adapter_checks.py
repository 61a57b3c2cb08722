"""What is wrong with an adapter's file, in one line that names the first keys and not all."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path

from helios_jax.checkpoint.adapter_files import AdapterTensors
from helios_jax.checkpoint.adapter_names import OTHER_KINDS, OTHER_MODELS, Part, strip_prefixes
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.finite import is_finite
from helios_jax.checkpoint.kinds import kind_of

MAX_KEY = 70
"""Characters of a key that a message shows."""


def show_keys(keys: Iterable[str] | Mapping[str, str]) -> str:
    """How many keys there are, and the first three of them, each followed by its remark."""
    remarks = keys if isinstance(keys, Mapping) else dict.fromkeys(keys)
    first = []
    for key, remark in list(remarks.items())[:3]:
        name = key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..."
        name = name if name.isprintable() else ascii(name)[1:-1]
        first.append(f"{name}{remark if isinstance(remark, str) else ''}")
    more = f", and {len(remarks) - 3} more" if len(remarks) > 3 else ""
    return f"{', '.join(first)}{more}"


def counted(things: Sized, name: str) -> str:
    """How many things there are, with their name: "1 key", "2 keys"."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def refuse_keys(file: Path, keys: Sequence[str], unknown: Sequence[str]) -> None:
    """Say what a file is that has keys which say nothing here."""
    for pattern, kind in OTHER_KINDS:
        if found := [key for key in keys if re.search(pattern, key)]:
            raise CheckpointError(
                f"{file} is {kind}, which cannot be merged ({show_keys(found)}); a plain LoRA can"
            )
    if kind := kind_of(map(strip_prefixes, unknown)):
        raise CheckpointError(
            f"{file} is an adapter of {kind} ({show_keys(unknown)}); Helios comes from Wan 2.1 T2V"
        )
    for pattern, model in OTHER_MODELS:
        if found := [key for key in unknown if re.search(pattern, key)]:
            raise CheckpointError(f"{file} is an adapter of {model} ({show_keys(found)})")
    raise CheckpointError(
        f"{file}: keys that match nothing in the transformer, {len(unknown)} of {len(keys)}: "
        f"{show_keys(unknown)}"
    )


def check_names(file: Path, parts: Mapping[str, Part]) -> None:
    """Refuse several adapters in one file, two tensors in one place, and halves of pairs."""
    names = Counter(part.adapter for part in parts.values() if part.adapter)
    if len(names) > 1:
        raise CheckpointError(
            f"{file} holds {len(names)} adapters ({show_keys(list(names))}): save one of them"
        )
    places: dict[tuple[str, str], str] = {}
    for key, part in parts.items():
        other = places.setdefault((part.tensor, part.role), key)
        if other != key:
            raise CheckpointError(f"{file}: two keys say the same: {show_keys([other, key])}")
    for here, there in (("down", "up"), ("up", "down")):
        half = [key for (name, role), key in places.items() if role == here]
        half = [key for key in half if (parts[key].tensor, there) not in places]
        if half:
            raise CheckpointError(
                f"{file}: {counted(half, 'key')} without the other half of the pair: "
                f"{show_keys(half)}"
            )
    for key, part in parts.items():
        weight = f"{part.tensor.removesuffix('.bias')}.weight"
        if part.role == "up_bias" and (weight, "down") not in places:
            raise CheckpointError(f"{file}: {show_keys([key])} is without its lora_A and lora_B")
    changed = {name for name, role in places if role != "alpha"}
    lone = [key for (name, role), key in places.items() if role == "alpha" and name not in changed]
    if lone:
        raise CheckpointError(f"{file}: an alpha is without a pair: {show_keys(lone)}")


def check_ranks(found: AdapterTensors, parts: Mapping[str, Part]) -> None:
    """Refuse factors that are no matrices, and pairs whose ranks differ."""
    ups = {part.tensor: key for key, part in parts.items() if part.role == "up"}
    wrong = {}
    for key, part in parts.items():
        if part.role != "down":
            continue
        down = found.tensors[key].shape
        up = found.tensors[ups[part.tensor]].shape
        if len(down) < 2 or len(up) < 2 or math.prod(up[1:]) != down[0] or not down[0]:
            wrong[key] = f" {list(down)} beside {list(up)}"
    if wrong:
        raise CheckpointError(
            f"{found.file}: {counted(wrong, 'pair')} of factors without a common rank: "
            f"{show_keys(wrong)}"
        )


def check_values(found: AdapterTensors) -> None:
    """Refuse values that are no plain numbers, NaN or infinite."""
    integers = [key for key, tensor in found.tensors.items() if tensor.dtype.kind in "iub"]
    integers = [
        key for key in integers if not key.endswith(".alpha") or found.tensors[key].dtype == bool
    ]
    if integers:
        raise CheckpointError(f"{found.file} holds integers, not weights: {show_keys(integers)}")
    long = [key for key, tensor in found.tensors.items() if key.endswith(".alpha")]
    long = [key for key in long if math.prod(found.tensors[key].shape) != 1]
    if long:
        raise CheckpointError(f"{found.file}: an alpha is not one number: {show_keys(long)}")
    broken = [key for key, tensor in found.tensors.items() if not is_finite(tensor.read())]
    if broken:
        raise CheckpointError(
            f"{found.file}: {counted(broken, 'tensor')} with NaN or infinite values: "
            f"{show_keys(broken)}"
        )
