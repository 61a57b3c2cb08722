"""Adapters of toy size in every style that is found beside a model, and what PyTorch makes of them.

A style writes one change of the weights under names of its own. The change is written down once, in
Diffusers' names, with alpha folded into the up factors, so that Diffusers can merge it even where
it does not know the style.
"""

import copy
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import diffusers
import peft
import torch
from diffusers.loaders.lora_pipeline import HeliosLoraLoaderMixin
from safetensors.torch import save_file

from .torch_models import transformer

RANK = 3
WIDTH = 24

WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "norm_out.scale_shift_table": "head.modulation",
    "proj_out": "head.head",
    "scale_shift_table": "modulation",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "net.0.proj": "0",
    "net.2": "2",
    "norm2": "norm3",
}
"""Parts of Diffusers' names, and what the original implementation calls them."""

LINEARS = [
    f"blocks.{block}.{name}"
    for block in range(3)
    for name in (
        *(f"attn{n}.to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out.0")),
        "ffn.net.0.proj",
        "ffn.net.2",
    )
]
EMBEDDINGS = [name for name in WAN if name.startswith("condition_embedder")]

Tensors = dict[str, torch.Tensor]


def wan(name: str) -> str:
    """The original implementation's name of a module in Diffusers' names."""
    for ours, theirs in WAN.items():
        name = name.replace(ours, theirs)
    return name


def flat(name: str) -> str:
    """A name with every joint an underscore, as kohya's trainers write it."""
    return name.replace(".", "_")


def half_flat(name: str) -> str:
    """``blocks_0.self_attn.q``."""
    return name.replace("blocks.", "blocks_")


def same(name: str) -> str:
    """Diffusers' name."""
    return name


class Pair(NamedTuple):
    """The factors of a weight, in float32."""

    down: torch.Tensor
    up: torch.Tensor


class Style(NamedTuple):
    """One style of adapter.

    Attributes:
      kind: what it is, for a reader.
      example: a key, or the files.
      write: writes it into an empty folder, and returns what --lora is given.
      change: the same in Diffusers' names: factors and ``lora_B.bias``, and a tensor that is added
        to another, ``+name``, or takes its place, ``=name``.
      oracle: "file": Diffusers merges the file as it is; "names": it merges the change; "PEFT":
        PEFT merges the folder.
    """

    kind: str
    example: str
    write: Callable[[Path], str]
    change: Mapping[str, torch.Tensor]
    oracle: str = "names"


def pairs(modules: list[str] = LINEARS, rank: int = RANK, seed: int = 0) -> dict[str, Pair]:
    """Factors of linear modules, drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    model = base()
    found = {}
    for module in modules:
        out, *ins = model.get_submodule(module).weight.shape
        ones = [1] * (len(ins) - 1)
        down = torch.randn(rank, *ins, generator=generator) / rank
        found[module] = Pair(down, torch.randn(out, rank, *ones, generator=generator))
    return found


@functools.cache
def base() -> diffusers.HeliosTransformer3DModel:
    """The transformer that everything is merged into."""
    torch.manual_seed(0)
    return transformer()


def folded(found: Mapping[str, Pair], scale: float | Mapping[str, float] = 1.0) -> Tensors:
    """Factors as Diffusers names them, with ``alpha / r`` in the up factors."""
    change = {}
    for module, pair in found.items():
        own = scale if isinstance(scale, float) else scale[module]
        change[f"{module}.lora_A.weight"] = pair.down
        change[f"{module}.lora_B.weight"] = own * pair.up
    return change


def named(
    kind: str,
    prefix: str,
    name: Callable[[str], str] = same,
    *,
    factors: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
    alpha: float | None = None,
    oracle: str = "names",
    dtype: torch.dtype = torch.float32,
    file: str = "adapter.safetensors",
) -> Style:
    """A file of factors, ``{prefix}{module}.{factor}``, each module with an alpha or none."""
    tensors = {}
    held = {}
    for module, pair in pairs().items():
        stem = f"{prefix}{name(module)}"
        held[module] = Pair(pair.down.to(dtype), pair.up.to(dtype))
        tensors |= {f"{stem}.{factor}": part for factor, part in zip(factors, held[module])}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    exact = {module: Pair(pair.down.float(), pair.up.float()) for module, pair in held.items()}
    change = folded(exact, 1.0 if alpha is None else alpha / RANK)
    return Style(kind, next(iter(tensors)), file_of(tensors, file), change, oracle)


def file_of(
    tensors: Tensors, name: str = "adapter.safetensors", settings: dict | None = None
) -> Callable[[Path], str]:
    """What writes a file of tensors, with PEFT's settings in its metadata."""

    def write(folder: Path) -> str:
        held = {key: value.contiguous() for key, value in tensors.items()}
        metadata = {"format": "pt"}
        if settings:
            prefixed = {f"transformer.{key}": value for key, value in settings.items()}
            metadata["lora_adapter_metadata"] = json.dumps(prefixed)
        if name.endswith(".safetensors"):
            save_file(held, folder / name, metadata)
        else:
            torch.save(held, folder / name)
        return name

    return write


def peft_folder(tensors: Tensors, config: dict) -> Callable[[Path], str]:
    """What writes a folder as PEFT saves it."""

    def write(folder: Path) -> str:
        where = folder / "adapter"
        where.mkdir()
        save_file(tensors, where / "adapter_model.safetensors", {"format": "pt"})
        (where / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
        return "adapter"

    return write


def merged_by_torch(style: Style, path: Path) -> Tensors:
    """The transformer's tensors with the adapter merged in by PyTorch."""
    model = copy.deepcopy(base())
    if style.oracle == "PEFT":
        return peft.PeftModel.from_pretrained(model, path).merge_and_unload().state_dict()
    if style.oracle == "file":
        state, metadata = HeliosLoraLoaderMixin.lora_state_dict(
            str(path.parent) if path.is_file() else str(path),
            weight_name=path.name if path.is_file() else None,
            return_lora_metadata=True,
            local_files_only=True,
        )
        model.load_lora_adapter(state, metadata=metadata)
    else:
        factors = {key: value for key, value in style.change.items() if "lora_" in key}
        if factors:
            model.load_lora_adapter(factors, prefix=None)
    if getattr(model, "peft_config", None):
        model.fuse_lora()
        model.unload_lora()
    tensors = model.state_dict()
    if style.oracle != "file":
        for key, value in style.change.items():
            if key.startswith("+"):
                tensors[key[1:]] = tensors[key[1:]] + value
            elif key.startswith("="):
                tensors[key[1:]] = value
    return tensors
