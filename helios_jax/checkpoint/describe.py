"""What a place holds, as far as names and headers tell: nothing is loaded, nothing is refused."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from helios_jax.checkpoint import kinds, wan
from helios_jax.checkpoint.adapter_files import AdapterFile, find_adapter_file
from helios_jax.checkpoint.adapters import read_adapter
from helios_jax.checkpoint.directory import Checkpoint, open_checkpoint
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import read_json
from helios_jax.checkpoint.layouts import layout_of
from helios_jax.checkpoint.names import COMPONENTS
from helios_jax.checkpoint.original import EXPERTS, WAN_FILES
from helios_jax.checkpoint.pipeline_index import HELIOS, STARTING_POINTS
from helios_jax.checkpoint.pth import read_pth
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_folder
from helios_jax.checkpoint.stored import torch_tensors
from helios_jax.checkpoint.transformer_file import MARK, is_gguf, read_tensors, what_else

LAYOUTS = {
    "file": "one file",
    "pipeline": "Diffusers folder",
    "original": "original Wan folder",
    "checkpoint": "helios-jax checkpoint",
    "component": "folder of one model",
    "adapter": "adapter",
    "other": "not recognised",
}
"""What people call the layouts of :func:`~helios_jax.checkpoint.layouts.layout_of`."""

SIZES = {1536: "1.3B", 5120: "14B"}
"""What people call the models, by their width."""

ORIGINAL_PARTS = ("vae", "text_encoder")


@dataclasses.dataclass(frozen=True)
class Part:
    """A model in a place.

    Attributes:
      name: its folder or its role.
      tensors: how many.
      parameters: how many.
      nbytes: on disk.
      dtypes: by their share of the bytes, largest first.
      remark: its sizes, or why it cannot be read.
    """

    name: str
    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0
    dtypes: tuple[str, ...] = ()
    remark: str = ""

    def __str__(self) -> str:
        if not self.tensors:
            return f"{self.name} not readable"
        return f"{self.name} of {short(self.parameters)} parameters in {'/'.join(self.dtypes)}"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a place holds.

    Attributes:
      source: the place.
      layout: a value of :data:`LAYOUTS`.
      family: the model, ``""`` if it is not known.
      size: what people call its size.
      stage: of Helios' training: Base, Mid, Distilled, or a starting point; ``""`` if nothing says.
      parts: its models.
      sampler: the class and the settings of its scheduler, ``""`` if there is none.
      adapter: names, ranks and number of changes of an adapter, ``""`` for other places.
      problem: why it cannot be read at all, ``""`` if it can.
    """

    source: str
    layout: str
    family: str = ""
    size: str = ""
    stage: str = ""
    parts: tuple[Part, ...] = ()
    sampler: str = ""
    adapter: str = ""
    problem: str = ""

    @property
    def model(self) -> str:
        """Family, stage and size."""
        return " ".join(word for word in (self.family, self.stage, self.size) if word)

    def __str__(self) -> str:
        """All of it in one line, for the end of a refusal."""
        head = f"{self.model}, {self.layout}" if self.model else self.layout
        told = [str(part) for part in self.parts] + [self.adapter] * bool(self.adapter)
        return f"{head}: {', '.join(told)}" if told else head


def describe(path: Path, chosen: str | None = None) -> Description:
    """What a place holds. What cannot be read of it is said in the place's parts.

    Args:
      path: a file or a folder.
      chosen: the folder of one of several transformers, whose family and stage are wanted.
    """
    layout = layout_of(path)
    try:
        if layout == "file" and _is_adapter_file(path):
            layout = "adapter"
        return _DESCRIBERS[layout](path, chosen)
    except CheckpointError as error:
        return Description(str(path), LAYOUTS[layout], problem=str(error))


def short(count: int) -> str:
    """A number of parameters, ``14.31B`` or ``127M``."""
    for size, unit, digits in ((10**9, "B", 2), (10**6, "M", 0), (10**3, "K", 0)):
        if count >= size:
            return f"{count / size:.{digits}f}{unit}"
    return str(count)


def _pipeline(path: Path, chosen: str | None) -> Description:
    index = read_json(path / "model_index.json")
    names = [*COMPONENTS, *STARTING_POINTS, "transformer_2"]
    others = (name for name, value in index.items() if isinstance(value, list) and any(value))
    parts = {}
    for name in dict.fromkeys([*names, *others]):
        if (path / name).is_dir() and any((path / name).glob("*.safetensors*")):
            parts[name] = _part(name, read_folder, path / name)
    tensors = _try(read_folder, path / (chosen or "transformer"))
    scheduler = _try(read_json, path / "scheduler/scheduler_config.json")
    kind = str(index.get("_class_name"))
    family, size = _family(tensors, "transformer_2" in parts)
    family = kinds.PIPELINES.get(kind) or family or ("Helios" if kind in HELIOS else kind)
    stage = ""
    if family == "Helios":
        stage = f"{_stage(scheduler)}{f' ({chosen})' if chosen in STARTING_POINTS else ''}"
    shown = tuple(parts.values())
    return Description(
        str(path),
        f"{LAYOUTS['pipeline']} ({kind})",
        family,
        size,
        stage,
        shown,
        _sampler(scheduler),
    )


def _original(path: Path, chosen: str | None) -> Description:
    experts = [name for name in EXPERTS if (path / name).is_dir()]
    parts = [_part(name, read_folder, path / name) for name in experts]
    if not experts:
        parts = [_part("transformer", read_folder, path)]
    for name in ORIGINAL_PARTS:
        if (path / WAN_FILES[name]).exists():
            parts.append(_part(name, read_pth, path / WAN_FILES[name]))
    tensors = _try(read_folder, path / experts[0] if experts else path)
    family, size = _family(tensors, bool(experts))
    stated = _try(read_json, path / "config.json").get("model_type")
    family = kinds.MODEL_TYPES.get(str(stated), family)
    return Description(str(path), LAYOUTS["original"], family, size, "", tuple(parts))


def _component(path: Path, chosen: str | None) -> Description:
    values = read_json(path / "config.json")
    kind = str(values.get("_class_name") or values.get("model_type") or "a model")
    stage = f"({path.name})" if path.name in STARTING_POINTS else ""
    part = _part(path.name, read_folder, path)
    tensors = _try(read_folder, path)
    return Description(
        str(path), f"{LAYOUTS['component']} ({kind})", *_family(tensors), stage, (part,)
    )


def _file(path: Path, chosen: str | None) -> Description:
    if is_gguf(path):
        return Description(str(path), f"GGUF file of {path.stat().st_size} bytes")
    tensors = read_tensors(path, chosen)
    family, size = _family(tensors)
    name = "transformer" if family else what_else(tensors)
    return Description(
        str(path), LAYOUTS["file"], family, size, "", (_part(name, read_tensors, path, chosen),)
    )


def _adapter(path: Path, chosen: str | None) -> Description:
    found = read_adapter(AdapterFile(path))
    ranks = ", ".join(map(str, found.ranks)) or "none"
    names = f"{found.naming} names, rank {ranks}, tensors changed: {len(found.changes)}"
    size = find_adapter_file(path).stat().st_size
    return Description(str(path), LAYOUTS["adapter"], adapter=f"{names}, {size} bytes")


def _checkpoint(path: Path, chosen: str | None) -> Description:
    opened = open_checkpoint(path)
    parts = []
    for name in COMPONENTS:
        if opened.files.under(name):
            parts.append(_part(name, _stored, opened, name))
    scheduler = opened.config.scheduler
    width = opened.config.transformer.width
    size = SIZES.get(width, f"of width {width}")
    stage = "Distilled" if scheduler.solver == "dmd" else "Mid" if scheduler.stages > 1 else "Base"
    sampler = (
        f"{scheduler.solver}, stages {scheduler.stages}, steps {list(opened.config.sample.steps)}"
    )
    return Description(
        str(path), LAYOUTS["checkpoint"], "Helios", size, stage, tuple(parts), sampler
    )


def _other(path: Path, chosen: str | None) -> Description:
    names = sorted(entry.name for entry in path.iterdir())
    shown = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" or "nothing"
    return Description(str(path), f"{LAYOUTS['other']}; it holds {shown}")


_DESCRIBERS: Mapping[str, Callable[[Path, str | None], Description]] = {
    "file": _file,
    "pipeline": _pipeline,
    "original": _original,
    "checkpoint": _checkpoint,
    "component": _component,
    "adapter": _adapter,
    "other": _other,
}


def _stored(checkpoint: Checkpoint, component: str) -> dict[str, TorchTensor]:
    return dict(torch_tensors(checkpoint, component))


def _is_adapter_file(path: Path) -> bool:
    tensors = _try(read_tensors, path)
    return bool(tensors) and kinds.is_adapter(tensors)


def _try(read: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What ``read(*arguments)`` gives, or nothing if it cannot be read."""
    try:
        return read(*arguments)
    except CheckpointError:
        return {}


def _part(name: str, read: Callable[..., Mapping[str, TorchTensor]], *arguments: Any) -> Part:
    """A part by its tensors, or by the reason why ``read(*arguments)`` does not give them."""
    try:
        tensors = read(*arguments)
    except CheckpointError as error:
        return Part(name, remark=str(error))
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype.name] += tensor.nbytes
    return Part(
        name,
        len(tensors),
        sum(math.prod(tensor.shape) for tensor in tensors.values()),
        sum(sizes.values()),
        tuple(dtype for dtype, _ in sizes.most_common()),
        _sizes(tensors),
    )


def _bare(names: Iterable[str]) -> dict[str, str]:
    """Names without the prefix of the file, to those with it, if there is a transformer."""
    names = list(names)
    marks = [name.removesuffix(MARK) for name in names if name.endswith(MARK)]
    if not marks:
        return {}
    prefix = min(marks, key=len)
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def _sizes(tensors: Mapping[str, TorchTensor]) -> str:
    """Layers and width of a transformer."""
    bare = _bare(tensors)
    if MARK not in bare:
        return ""
    layers = {name.split(".")[1] for name in bare if name.startswith("blocks.")}
    return f"{len(layers)} layers of width {(tensors[bare[MARK]].shape or (0,))[0]}"


def _family(tensors: Mapping[str, TorchTensor], two: bool = False) -> tuple[str, str]:
    """What a transformer is, by its tensors' names, and its size; ``""`` twice if it is none."""
    bare = _bare(tensors)
    if MARK not in bare:
        return "", ""
    shape = tensors[bare[MARK]].shape or (0,)
    size = SIZES.get(shape[0], f"of width {shape[0]}")
    if bare[MARK].split(".")[0] in kinds.CAUSAL_KEYS:
        return kinds.CAUSAL, size
    if kind := kinds.kind_of(bare, shape[1] if len(shape) > 1 else None):
        return kind, size
    if any(re.match(wan.HISTORY_PATCHES, wan.rename(name, wan.EARLIER_NAMES)) for name in bare):
        return "Helios", size
    return ("Wan 2.2 T2V (two experts)" if two else "Wan T2V"), size


def _stage(scheduler: Mapping[str, Any]) -> str:
    """The stage of training that a model with this scheduler has been through."""
    if "DMD" in str(scheduler.get("_class_name")) or scheduler.get("scheduler_type") == "dmd":
        return "Distilled"
    if not scheduler:
        return ""
    return "Base" if scheduler.get("stages") == 1 else "Mid"


def _sampler(scheduler: Mapping[str, Any]) -> str:
    """A scheduler's class and the settings that tell it from another."""
    if not scheduler:
        return ""
    keys = ("stages", "time_shift_type", "use_dynamic_shifting", "shift", "flow_shift")
    told = [f"{key} {scheduler[key]}" for key in keys if key in scheduler]
    return ", ".join([str(scheduler.get("_class_name")), *told])
