"""Layouts that are converted, each with what PyTorch makes of it."""

import functools
import json
import shutil
from pathlib import Path

import diffusers
import torch

from helios_jax.checkpoint.convert import from_torch
from helios_jax.checkpoint.source import Selection
from tests.checkpoint.test_selection import OWN_CLASS

from .test_convert import rewrite
from .test_wan import ORIGINAL_TRANSFORMER, ORIGINAL_VAE, original_name
from .torch_models import randomised, text_encoder
from .toy_layouts import (
    Layout,
    Toy,
    helios,
    helios_in_wan_names,
    in_float8,
    original,
    rounded,
    single,
    started,
    toy,
    wan,
    wan_original,
    wan_toy,
    write_json,
    write_original_transformer,
    write_part,
)

ODE = 1
"""Seed of a second transformer."""


def of_helios(kind: str = "distilled", dtype: torch.dtype = torch.float32, shard: str = "10GB"):
    return Selection(helios(f"Helios-{kind.capitalize()}", kind, dtype, shard))


def with_starting_point(kind: str, name: str, chosen: bool):
    folder = helios(f"Helios-{kind.capitalize()}", kind)
    write_part(folder / name, toy(ODE).transformer)
    return Selection(folder, name if chosen else None)


def of_the_original_class(heads: bool):
    folder = helios("merged")
    write_json(folder / "transformer/config.json", **OWN_CLASS | {"is_use_gan": heads})
    if heads:
        rewrite(folder / "transformer", add_heads)
    return Selection(folder)


def add_heads(tensors):
    tensors["gan_heads.5.head3d.0.weight"] = torch.zeros(3)
    tensors["gan_final_head.head3d.20.bias"] = torch.zeros(1)


def sampler_of_the_original_class():
    folder = helios("Helios-Distilled")
    values = {"_class_name": "HeliosScheduler", "scheduler_type": "dmd"}
    write_json(folder / "scheduler/scheduler_config.json", **values)
    return Selection(folder)


def in_the_march_form():
    folder = helios("Helios-Distilled")
    values = {"_class_name": "HeliosPipeline", "is_distilled": None, "is_cfg_zero_star": None}
    write_json(folder / "model_index.json", **values)
    write_json(folder / "scheduler/scheduler_config.json", scheduler_type="unipc")
    return Selection(folder)


def with_an_earlier_vae():
    folder = helios("Helios-Base", "base")
    path = folder / "vae/config.json"
    values = json.loads(path.read_text())
    for name in ("in_channels", "out_channels", "is_residual", "patch_size"):
        del values[name]
    path.write_text(json.dumps({key: values[key] for key in values if "scale_factor" not in key}))
    return Selection(folder)


def with_earlier_names():
    folder = helios("Helios-Base", "base")
    rewrite(folder / "transformer", make_earlier)
    return Selection(folder)


def make_earlier(tensors):
    tensors["scale_shift_table"] = tensors.pop("norm_out.scale_shift_table")
    for kind in ("weight", "bias"):
        tensors[f"clean_patch_embedding.proj.{kind}"] = tensors.pop(f"patch_short.{kind}")
        tensors[f"multi_term_memory_patch.patch_mid.{kind}"] = tensors.pop(f"patch_mid.{kind}")


def with_the_embedding_under_its_other_name():
    folder = helios("Helios-Mid", "mid")
    rewrite(folder / "text_encoder", rename_embedding)
    return Selection(folder)


def rename_embedding(tensors):
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")


def in_the_cache():
    root = Path("cache/models--BestWishYsh--Helios-Base")
    helios(str(root / "snapshots/21cf91da"), "base")
    (root / "refs").mkdir()
    (root / "refs/main").write_text("21cf91da")
    return Selection("BestWishYsh/Helios-Base")


def with_download_records():
    folder = helios("Helios-Base", "base")
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/vae.bin").touch()
    return Selection(folder)


def alone(converted: bool):
    write_part(Path("transformer_ode"), toy(ODE).transformer)
    rest = helios("Helios-Distilled")
    if converted:
        from_torch(rest, "ours", progress=False)
        shutil.rmtree(rest)
        rest = Path("ours")
    return Selection("transformer_ode", None, rest)


def in_one_file(prefix: str, tensors, name: str = "helios.safetensors", **others):
    return Selection(single(name, tensors(), prefix, **others), None, helios("Helios-Distilled"))


def state():
    return dict(toy().transformer.state_dict())


def pickled(wrapper: str | None):
    torch.save({wrapper: state(), "step": 7} if wrapper else state(), "helios.pt")
    return Selection("helios.pt", None, helios("Helios-Distilled"))


def float8(scale: str | None):
    file = single("fp8.safetensors", in_float8(scale, toy().transformer)[0], "diffusion_model.")
    return Selection(file, None, helios("Helios-Distilled"))


@functools.cache
def of_float8(scale: str | None) -> Toy:
    return toy()._replace(transformer=in_float8(scale, toy().transformer)[1])


def with_vae_inside():
    return in_one_file(
        "model.diffusion_model.",
        state,
        **{"vae.decoder.conv1.bias": torch.zeros(3), "text_encoders.umt5xxl.x": torch.zeros(3)},
    )


def two_transformers(chosen: str):
    extra = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
    folder = wan("Wan2.2-T2V-A14B-Diffusers", **extra)
    write_part(folder / "transformer_2", wan_toy(ODE).transformer)
    return Selection(folder, chosen)


def two_originals(chosen: str):
    folder = wan_original("Wan2.2-T2V-A14B")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / name).unlink()
    for seed, name in enumerate(("high_noise_model", "low_noise_model")):
        write_original_transformer(folder / name, seed)
    return Selection(folder, chosen)


def wan_in_one_file(prefix: str, in_diffusers_names: bool = False):
    model = wan_toy().transformer
    tensors = dict(model.state_dict()) if in_diffusers_names else wan_state()
    file = single("wan2.1_t2v.safetensors", tensors, prefix)
    return Selection(file, None, wan("Wan2.1-T2V-1.3B-Diffusers"))


def wan_pickled():
    torch.save(wan_state(), "wan.pth")
    return Selection("wan.pth", None, wan_original("Wan2.1-T2V-1.3B"))


def wan_state():
    return original(wan_toy().transformer, ORIGINAL_TRANSFORMER)


def wan_in_float8():
    tensors, _ = in_float8("scale_weight", wan_toy().transformer)
    named = {original_name(name, ORIGINAL_TRANSFORMER): value for name, value in tensors.items()}
    file = single("wan_fp8_scaled.safetensors", named, "model.diffusion_model.")
    return Selection(file, None, wan("Wan2.1-T2V-1.3B-Diffusers"))


@functools.cache
def started_from_float8() -> Toy:
    model = in_float8("scale_weight", started().transformer)[1]
    return started()._replace(transformer=model)


def average_of_a_trainer(chosen: str | None):
    entries = {"model": dict(toy(ODE).transformer.state_dict()), "ema": state(), "step": 7}
    torch.save(entries, "helios.pt")
    return Selection("helios.pt", chosen, helios("Helios-Distilled"))


@functools.cache
def wan_of_other_parts() -> Toy:
    """A Wan whose VAE and text encoder are not those of the rest."""
    models = randomised(diffusers.AutoencoderKLWan(base_dim=2)), text_encoder()
    return Toy(wan_toy().transformer, *models)


@functools.cache
def started_with_other_parts() -> Toy:
    return wan_of_other_parts()._replace(transformer=started().transformer)


def wan_with_all_parts(vae: str, text: str):
    models = wan_of_other_parts()
    own = original(models.vae, ORIGINAL_VAE)
    parts = {f"{vae}{name}": tensor for name, tensor in own.items()}
    for name, tensor in models.text_encoder.state_dict().items():
        if name != "encoder.embed_tokens.weight":
            parts[f"{text}{name}"] = tensor.contiguous()
    parts["text_encoders.spiece_model"] = torch.zeros(3, dtype=torch.uint8)
    file = single("wan.safetensors", wan_state(), "model.diffusion_model.", **parts)
    return Selection(file, None, wan("Wan2.1-T2V-1.3B-Diffusers"))


def bfloat16() -> Toy:
    """Diffusers keeps nothing in float32 when it is told to save in bfloat16."""
    return toy()._replace(transformer=rounded(toy().transformer, torch.bfloat16))


call = functools.partial
ACCEPTED = (
    Layout("Helios-Base, Diffusers", "transformer/diffusion_pytorch_model.safetensors",
           call(of_helios, "base"), toy),
    Layout("Helios-Mid, shards with an index", "diffusion_pytorch_model-00001-of-00006.safetensors",
           call(of_helios, "mid", shard="30KB"), toy),
    Layout("Helios-Distilled in bfloat16", "HeliosDMDScheduler",
           call(of_helios, "distilled", torch.bfloat16), bfloat16),
    Layout("Helios-Distilled with a starting point beside", "transformer/, transformer_ode/",
           call(with_starting_point, "distilled", "transformer_ode", False), toy),
    Layout("the starting point of Distilled's last stage", "--transformer transformer_ode",
           call(with_starting_point, "distilled", "transformer_ode", True), call(toy, ODE)),
    Layout("the starting point of Base", "--transformer transformer_init",
           call(with_starting_point, "base", "transformer_init", True), call(toy, ODE)),
    Layout("saved by the original implementation's class", "restrict_lora_rank: 128",
           call(of_the_original_class, False), toy),
    Layout("the same with a discriminator's heads", "gan_heads.5.head3d.0.weight",
           call(of_the_original_class, True), toy),
    Layout("the original implementation's sampler", "HeliosScheduler, scheduler_type: dmd",
           sampler_of_the_original_class, toy),
    Layout("Distilled's index of March", "HeliosPipeline with HeliosDMDScheduler",
           in_the_march_form, toy),
    Layout("an earlier configuration of the VAE", "no in_channels, no scale_factor_spatial",
           with_an_earlier_vae, toy),
    Layout("earlier names of tensors", "clean_patch_embedding.proj.weight, scale_shift_table",
           with_earlier_names, toy),
    Layout("the text encoder's embedding under its other name", "encoder.embed_tokens.weight",
           with_the_embedding_under_its_other_name, toy),
    Layout("a repository of the Hugging Face cache", "--source BestWishYsh/Helios-Base",
           in_the_cache, toy),
    Layout("a folder of hf download --local-dir", ".cache/huggingface/",
           with_download_records, toy),
    Layout("a transformer alone, the rest from a pipeline", "--rest Helios-Distilled",
           call(alone, False), call(toy, ODE)),
    Layout("a transformer alone, the rest from a checkpoint of ours", "--rest ours",
           call(alone, True), call(toy, ODE)),
    Layout("Helios in one file, ComfyUI's prefix", "model.diffusion_model.patch_short.weight",
           call(in_one_file, "model.diffusion_model.", state), toy),
    Layout("Helios in one file, the shorter prefix", "diffusion_model.blocks.0.attn1.to_q.weight",
           call(in_one_file, "diffusion_model.", state), toy),
    Layout("Helios in one file in Wan's names", "model.diffusion_model.blocks.0.self_attn.q.weight",
           call(in_one_file, "model.diffusion_model.", helios_in_wan_names), toy),
    Layout("Helios in one file of a trainer", "module.patch_embedding.weight",
           call(in_one_file, "module.", state), toy),
    Layout("Helios in a file of torch.save", "helios.pt", call(pickled, None), toy),
    Layout("the same inside a dictionary", "state_dict", call(pickled, "state_dict"), toy),
    Layout("the average of a trainer's file", "{'model': ..., 'ema': ...}, --transformer ema",
           call(average_of_a_trainer, "ema"), toy),
    Layout("Helios in float8 with scales", "ffn.net.2.scale_weight, scaled_fp8",
           call(float8, "scale_weight"), call(of_float8, "scale_weight")),
    Layout("Helios in float8, today's names of ComfyUI", "ffn.net.2.weight_scale, comfy_quant",
           call(float8, "weight_scale"), call(of_float8, "weight_scale")),
    Layout("Helios cast to float8 without scales", "F8_E4M3", call(float8, None),
           call(of_float8, None)),
    Layout("a checkpoint of ComfyUI with all parts", "vae.decoder.conv1.bias",
           with_vae_inside, toy),
    Layout("Wan 2.1 T2V, Diffusers", "WanPipeline",
           lambda: Selection(wan("Wan2.1-T2V-1.3B-Diffusers")), started, True),
    Layout("the same saved by a newer Diffusers", "transformer_2: [null, null]",
           lambda: Selection(wan("wan", transformer_2=[None, None], boundary_ratio=None)),
           started, True),
    Layout("Wan 2.1 T2V, video to video", "WanVideoToVideoPipeline",
           lambda: Selection(wan("wan", _class_name="WanVideoToVideoPipeline")), started, True),
    Layout("Wan 2.1 T2V, original", "Wan2.1_VAE.pth",
           lambda: Selection(wan_original("Wan2.1-T2V-1.3B")), started, True),
    Layout("Wan 2.1 in one file of ComfyUI", "model.diffusion_model.blocks.0.self_attn.q.weight",
           call(wan_in_one_file, "model.diffusion_model."), started, True),
    Layout("Wan 2.1 in one file in Diffusers' names", "blocks.0.attn1.to_q.weight",
           call(wan_in_one_file, "", True), started, True),
    Layout("Wan 2.1 in one file of torch.save", "wan.pth", wan_pickled, started, True),
    Layout("a checkpoint of ComfyUI with Wan's VAE and text encoder",
           "vae.encoder.conv1.weight, text_encoders.umt5xxl.transformer.shared.weight",
           call(wan_with_all_parts, "vae.", "text_encoders.umt5xxl.transformer."),
           started_with_other_parts, True),
    Layout("the same in earlier names of ComfyUI",
           "first_stage_model.conv2.weight, cond_stage_model.umt5xxl.transformer.shared.weight",
           call(wan_with_all_parts, "first_stage_model.", "cond_stage_model.umt5xxl.transformer."),
           started_with_other_parts, True),
    Layout("Wan 2.1 in float8 with scales", "ffn.0.scale_weight", wan_in_float8,
           started_from_float8, True),
    Layout("Wan 2.2 A14B, Diffusers, the half for low noise", "--transformer transformer_2",
           call(two_transformers, "transformer_2"), call(started, ODE), True),
    Layout("Wan 2.2 A14B, Diffusers, the half for high noise", "--transformer transformer",
           call(two_transformers, "transformer"), started, True),
    Layout("Wan 2.2 A14B, original, the half for low noise", "--transformer low_noise_model",
           call(two_originals, "low_noise_model"), call(started, ODE), True),
)  # fmt: skip
