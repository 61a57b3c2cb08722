"""Toy models in PyTorch, and the files and folders in which people have such models."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from safetensors.torch import save_file

from helios_jax.checkpoint.source import Selection
from tests.parity.torch_transformer import random_transformer

from .test_wan import ORIGINAL_TEXT_ENCODER, ORIGINAL_TRANSFORMER, ORIGINAL_VAE, original_name
from .tiny import CONFIG
from .torch_models import SCHEDULERS, randomised, text_encoder, tokenizer, vae

OURS = CONFIG.transformer
GEOMETRY = {
    name: getattr(OURS, name)
    for name in (
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "text_dim",
        "freq_dim",
        "ffn_dim",
        "num_layers",
    )
}
WAN_GEOMETRY = GEOMETRY | {"in_channels": 16, "out_channels": 16}
"""Wan's original folders have no configuration of the VAE, so its channels are those of Wan."""

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Toy(NamedTuple):
    """The models of a pipeline: a Helios, or the one that starts from a Wan."""

    transformer: torch.nn.Module
    vae: torch.nn.Module
    text_encoder: torch.nn.Module


class Layout(NamedTuple):
    """A file or a folder that people have.

    Attributes:
      kind: what it is.
      example: names in it that show the kind.
      write: makes it in the working directory, and says what of it is converted.
      made: what PyTorch makes of it; None where it is refused.
      init_from_wan: whether it is a Wan's.
    """

    kind: str
    example: str
    write: Callable[[], Selection]
    made: Callable[[], Toy] | None = None
    init_from_wan: bool = False


@functools.cache
def toy(seed: int = 0) -> Toy:
    """A Helios; all have the same VAE and text encoder."""
    transformer = random_transformer(seed, **GEOMETRY, rope_dim=(4, 4, 4))
    return Toy(transformer, *_helios_rest())


@functools.cache
def wan_toy(seed: int = 0) -> Toy:
    """A Wan, with a transformer of Diffusers' class; all have the same VAE and text encoder."""
    return Toy(_wan_transformer(seed), *_wan_rest())


@functools.cache
def _helios_rest() -> tuple[torch.nn.Module, torch.nn.Module]:
    return vae(), text_encoder()


@functools.cache
def _wan_rest() -> tuple[torch.nn.Module, torch.nn.Module]:
    return randomised(diffusers.AutoencoderKLWan(base_dim=2)), text_encoder()


def rounded(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of a model whose parameters have the values of a narrower dtype."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    return model


def _wan_transformer(seed: int) -> torch.nn.Module:
    helios = random_transformer(seed, **WAN_GEOMETRY, rope_dim=(4, 4, 4)).state_dict()
    model = diffusers.WanTransformer3DModel(**WAN_GEOMETRY)
    helios["scale_shift_table"] = helios.pop("norm_out.scale_shift_table")
    model.load_state_dict({name: helios[name] for name in model.state_dict()})
    return model


@functools.cache
def started(seed: int = 0) -> Toy:
    """The Helios that starts from :func:`wan_toy`, its history patches made by PyTorch."""
    wan = wan_toy(seed)
    tensors = dict(wan.transformer.state_dict())
    tensors["norm_out.scale_shift_table"] = tensors.pop("scale_shift_table")
    for name, factor in {"short": 1, "mid": 2, "long": 4}.items():
        kernel = tensors["patch_embedding.weight"]
        for axis in (2, 3, 4):
            kernel = kernel.repeat_interleave(factor, axis)
        tensors[f"patch_{name}.weight"] = kernel / factor**3
        tensors[f"patch_{name}.bias"] = tensors["patch_embedding.bias"]
    model = diffusers.HeliosTransformer3DModel(**WAN_GEOMETRY, rope_dim=(4, 4, 4))
    model.load_state_dict(tensors)
    return wan._replace(transformer=model.eval())


def write_json(path: Path, **values) -> None:
    """Write a JSON file, or change values of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


def write_part(folder: Path, model: torch.nn.Module, dtype=torch.float32, shard="10GB") -> None:
    """Save a model as Diffusers or Transformers do."""
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)


def write_rest(folder: Path, models: Toy, shard: str = "10GB") -> None:
    """Write VAE, text encoder and tokenizer of a Diffusers folder."""
    write_part(folder / "vae", models.vae)
    write_part(folder / "text_encoder", models.text_encoder, shard=shard)
    tokenizer().save_pretrained(folder / "tokenizer")


def helios(
    name: str, kind: str = "distilled", dtype: torch.dtype = torch.float32, shard: str = "10GB"
) -> Path:
    """Write a Diffusers folder of Helios."""
    folder = Path(name)
    write_rest(folder, toy(), shard)
    write_part(folder / "transformer", toy().transformer, dtype, shard)
    SCHEDULERS[kind]().save_pretrained(folder / "scheduler")
    index = {"_class_name": "HeliosPipeline"}
    if kind != "base":
        index = {
            "_class_name": "HeliosPyramidPipeline",
            "is_cfg_zero_star": kind == "mid",
            "is_distilled": kind == "distilled",
        }
    write_json(folder / "model_index.json", **index)
    return folder


def wan(name: str, **index) -> Path:
    """Write a Diffusers folder of Wan; ``index`` is added to its ``model_index.json``."""
    folder = Path(name)
    write_rest(folder, wan_toy())
    write_part(folder / "transformer", wan_toy().transformer)
    scheduler = {"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0}
    write_json(folder / "scheduler/scheduler_config.json", **scheduler)
    write_json(folder / "model_index.json", **{"_class_name": "WanPipeline", **index})
    return folder


def wan_original(name: str) -> Path:
    """Write an original folder of Wan 2.1."""
    folder = Path(name)
    tokenizer().save_pretrained(folder / "google/umt5-xxl")
    write_original_transformer(folder)
    torch.save(original(wan_toy().vae, ORIGINAL_VAE), folder / "Wan2.1_VAE.pth")
    text = original(wan_toy().text_encoder, ORIGINAL_TEXT_ENCODER)
    text.pop("encoder.embed_tokens.weight", None)
    torch.save(text, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    return folder


def write_original_transformer(folder: Path, seed: int = 0, **config) -> None:
    """Write a transformer as the original release has it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(original(wan_toy(seed).transformer, ORIGINAL_TRANSFORMER), folder / WEIGHTS)
    values = {
        "_class_name": "WanModel",
        "model_type": "t2v",
        "dim": 24,
        "num_heads": 2,
        "num_layers": 3,
        "ffn_dim": 20,
        "freq_dim": 8,
        "in_dim": 16,
        "out_dim": 16,
        "eps": 1e-6,
        "text_dim": 16,
    }
    write_json(folder / "config.json", **(values | config))


def original(model: torch.nn.Module, table: dict[str, str]) -> dict[str, torch.Tensor]:
    """A model's tensors in the names of the original Wan release."""
    names = {name: original_name(name, table) for name in model.state_dict()}
    return {names[name]: value.contiguous() for name, value in model.state_dict().items()}


def helios_in_wan_names() -> dict[str, torch.Tensor]:
    """The tensors of Helios' transformer in the names of the original Wan release."""
    tensors = {}
    for name, value in toy().transformer.state_dict().items():
        plain = name.replace("norm_out.scale_shift_table", "scale_shift_table")
        tensors[original_name(plain, ORIGINAL_TRANSFORMER)] = value.contiguous()
    return tensors


def single(name: str, tensors: dict[str, torch.Tensor], prefix: str = "", **others) -> Path:
    """Write one safetensors file; ``others`` are tensors without the prefix."""
    named = {f"{prefix}{key}": value.contiguous() for key, value in tensors.items()}
    save_file(named | others, name)
    return Path(name)


def in_float8(scale: str | None, model: torch.nn.Module) -> tuple[dict, torch.nn.Module]:
    """A transformer's tensors with its feed-forward weights in float8, and the model that PyTorch
    makes of them.
    """
    model = copy.deepcopy(model)
    tensors = dict(model.state_dict())
    for name in [name for name in tensors if ".ffn." in name and name.endswith("weight")]:
        weight = tensors[name]
        factor = weight.abs().max() / 448 if scale else torch.tensor(1.0)
        packed = (weight / factor).to(torch.float8_e4m3fn)
        model.get_parameter(name).data = packed.float() * factor
        tensors[name] = packed
        module = name.removesuffix(".weight")
        if scale:
            tensors[f"{module}.{scale}"] = factor
        if scale == "weight_scale":
            text = json.dumps({"format": "float8_e4m3fn"}).encode()
            tensors[f"{module}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    if scale == "scale_weight":
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return tensors, model
