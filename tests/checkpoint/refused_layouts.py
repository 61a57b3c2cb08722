"""Layouts that are refused, by name and with what can be done."""

import functools
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from helios_jax.checkpoint.source import Selection
from tests.checkpoint.test_selection import OWN_CLASS

from .accepted_layouts import (
    average_of_a_trainer,
    in_one_file,
    state,
    two_originals,
    two_transformers,
    wan_state,
)
from .toy_layouts import (
    Layout,
    helios,
    single,
    toy,
    wan,
    wan_original,
    write_json,
    write_part,
)


def of_class(name: str, transformer: str = "WanTransformer3DModel"):
    folder = wan("wan", _class_name=name)
    write_json(folder / "transformer/config.json", _class_name=transformer)
    return Selection(folder)


def with_tensor(name: str, prefix: str = "model.diffusion_model.", *shape: int):
    tensors = wan_state() | {name: torch.zeros(shape or (2,))}
    file = single("wan.safetensors", tensors, prefix)
    return Selection(file, None, wan("Wan2.1-T2V-1.3B-Diffusers"))


def with_channels(channels: int):
    return with_tensor("patch_embedding.weight", "model.diffusion_model.", 24, channels, 1, 2, 2)


def with_option(**options):
    folder = helios("merged")
    write_json(folder / "transformer/config.json", **OWN_CLASS | options)
    return Selection(folder)


def ti2v():
    folder = wan("Wan2.2-TI2V-5B-Diffusers", expand_timesteps=True)
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    save_file(wan_state() | {"patch_embedding.weight": torch.zeros(24, 48, 1, 2, 2)}, file)
    return Selection(folder)


def ti2v_original():
    folder = wan_original("Wan2.2-TI2V-5B")
    (folder / "Wan2.1_VAE.pth").rename(folder / "Wan2.2_VAE.pth")
    write_json(folder / "config.json", model_type="ti2v", in_dim=48, out_dim=48)
    return Selection(folder)


def original_of_type(kind: str):
    folder = wan_original(f"Wan2.1-{kind.upper()}")
    write_json(folder / "config.json", model_type=kind)
    return Selection(folder)


def original_with(file: str = "", **options):
    folder = wan_original("Wan2.1-T2V-1.3B")
    write_json(folder / "config.json", **options)
    if file:
        torch.save(wan_state(), folder / file)
    return Selection(folder)


def causal(key: str):
    torch.save({key: {f"model.{name}": value for name, value in wan_state().items()}}, "dmd.pt")
    return Selection("dmd.pt", None, wan("Wan2.1-T2V-1.3B-Diffusers"))


def gguf():
    Path("wan2.1-t2v-14b-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(60))
    return Selection("wan2.1-t2v-14b-Q4_K_M.gguf", None, wan("Wan2.1-T2V-1.3B-Diffusers"))


def gguf_folder():
    Path("folder").mkdir()
    Path("folder/wan2.1-t2v-14b-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(60))
    return Selection("folder")


def of_another_float():
    text = torch.tensor(list(json.dumps({"format": "nvfp4"}).encode()), dtype=torch.uint8)
    return in_one_file("", lambda: state() | {"blocks.0.ffn.net.2.comfy_quant": text})


def adapter(folder: bool):
    Path("paint").mkdir()
    tensors = {"lora_A": torch.zeros(4, 24), "lora_B": torch.zeros(24, 4)}
    named = {f"transformer.blocks.0.attn1.to_q.{key}.weight": tensors[key] for key in tensors}
    save_file(named, "paint/pytorch_lora_weights.safetensors")
    return Selection("paint" if folder else "paint/pytorch_lora_weights.safetensors")


def transformer_alone():
    write_part(Path("transformer"), toy().transformer)
    return Selection("transformer")


def component(name: str):
    return Selection(helios("Helios-Base", "base") / name)


def without(pattern: str):
    """A Helios whose download was interrupted: a file or a folder is missing."""
    folder = helios("Helios-Mid", "mid", shard="30KB")
    missing = sorted(folder.glob(pattern))[0]
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    return Selection(folder)


def cut_in_the_cache():
    root = Path("cache/models--BestWishYsh--Helios-Base")
    folder = helios(str(root / "snapshots/21cf91da"), "base")
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    file.rename(root / "blob.incomplete")
    write_json(folder / "vae/diffusion_pytorch_model.safetensors.index.json",
               weight_map={"quant_conv.bias": file.name})  # fmt: skip
    return Selection("BestWishYsh/Helios-Base")


def with_part(name: str):
    folder = helios("Helios-Base", "base")
    write_json(folder / "model_index.json", **{name: ["transformers", "CLIPVisionModel"]})
    return Selection(folder)


def with_folder(name: str):
    folder = helios("Helios-Base", "base")
    write_part(folder / name, toy().transformer)
    return Selection(folder)


def with_pickles():
    folder = helios("Helios-Base", "base")
    (folder / "vae/diffusion_pytorch_model.safetensors").rename(
        folder / "vae/diffusion_pytorch_model.bin"
    )
    return Selection(folder)


def helios_with_a_wans_rest():
    return Selection(single("helios.safetensors", state()), None, wan("Wan2.1-T2V-1.3B-Diffusers"))


def converted_already():
    from helios_jax.checkpoint.convert import from_torch

    from_torch(helios("Helios-Base", "base"), "ours", progress=False)
    return Selection("ours")


def vae_file():
    tensors = {"decoder.conv1.weight": torch.zeros(2), "encoder.conv1.weight": torch.zeros(2)}
    return Selection(single("wan_2.1_vae.safetensors", tensors), None, helios("Helios-Base"))


def beside_the_index(name: str):
    folder = helios("Helios-Base", "base")
    save_file({"a": torch.zeros(1)}, folder / name)
    return Selection(folder)


def pointer():
    folder = helios("Helios-Base", "base")
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 57250000000\n"
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_text(text)
    return Selection(folder)


def i2v_of_two():
    selection = two_originals(None)
    for name in ("high_noise_model", "low_noise_model"):
        write_json(Path(selection.source) / name / "config.json", model_type="i2v", in_dim=36)
    return selection


def changed(name: str, change):
    return in_one_file("", lambda: state() | {name: change(state()[name])})


call = functools.partial
SELF_FORCING = "self_forcing_dmd.pt: generator_ema"
REFUSED = (
    Layout("Wan 2.2 A14B, Diffusers", "transformer_2/, boundary_ratio: 0.875",
           call(two_transformers, None), init_from_wan=True),
    Layout("Wan 2.2 A14B, original", "high_noise_model/, low_noise_model/",
           call(two_originals, None), init_from_wan=True),
    Layout("Wan 2.2 TI2V-5B, Diffusers", "in_channels: 48, expand_timesteps: true", ti2v,
           init_from_wan=True),
    Layout("Wan 2.2 TI2V-5B, original", "Wan2.2_VAE.pth", ti2v_original, init_from_wan=True),
    Layout("Wan I2V, Diffusers", "WanImageToVideoPipeline",
           call(of_class, "WanImageToVideoPipeline"), init_from_wan=True),
    Layout("Wan I2V, original", "model_type: i2v", call(original_of_type, "i2v"),
           init_from_wan=True),
    Layout("Wan I2V, original, without its type", "models_clip_open-clip-xlm-roberta.pth",
           call(original_with, "models_clip_open-clip-xlm-roberta.pth"), init_from_wan=True),
    Layout("a Wan with local attention", "window_size: [5, 5]",
           call(original_with, window_size=[5, 5]), init_from_wan=True),
    Layout("a Wan with an option that nobody knows", "num_experts: 4",
           call(original_with, num_experts=4), init_from_wan=True),
    Layout("Wan I2V in one file", "blocks.0.cross_attn.k_img.weight",
           call(with_tensor, "blocks.0.cross_attn.k_img.weight"), init_from_wan=True),
    Layout("Wan 2.2 I2V in one file", "patch_embedding.weight of 36 channels",
           call(with_channels, 36), init_from_wan=True),
    Layout("Wan FLF2V, original", "model_type: flf2v", call(original_of_type, "flf2v"),
           init_from_wan=True),
    Layout("Wan FLF2V in one file", "img_emb.emb_pos", call(with_tensor, "img_emb.emb_pos"),
           init_from_wan=True),
    Layout("Wan VACE, Diffusers", "WanVACEPipeline", call(of_class, "WanVACEPipeline"),
           init_from_wan=True),
    Layout("Wan VACE in one file", "vace_blocks.0.after_proj.bias",
           call(with_tensor, "vace_blocks.0.after_proj.bias"), init_from_wan=True),
    Layout("Wan Fun-Control in one file", "ref_conv.weight", call(with_tensor, "ref_conv.weight"),
           init_from_wan=True),
    Layout("Wan Fun-Camera in one file", "control_adapter.conv.weight",
           call(with_tensor, "control_adapter.conv.weight"), init_from_wan=True),
    Layout("Wan S2V in one file", "audio_injector.injector.0.q.weight",
           call(with_tensor, "audio_injector.injector.0.q.weight"), init_from_wan=True),
    Layout("Wan-Animate in one file", "face_adapter.fuser_blocks.0.q_norm.weight",
           call(with_tensor, "face_adapter.fuser_blocks.0.q_norm.weight"), init_from_wan=True),
    Layout("SkyReels-V2, Diffusers", "SkyReelsV2DiffusionForcingPipeline",
           call(of_class, "SkyReelsV2DiffusionForcingPipeline"), init_from_wan=True),
    Layout("SkyReels-V2 in one file", "fps_embedding.weight",
           call(with_tensor, "fps_embedding.weight"), init_from_wan=True),
    Layout("Self-Forcing", SELF_FORCING, call(causal, "generator_ema"), init_from_wan=True),
    Layout("CausVid", "model.pt: generator", call(causal, "generator"), init_from_wan=True),
    Layout("Wan 2.2 I2V A14B, original", "high_noise_model/config.json: model_type i2v",
           i2v_of_two, init_from_wan=True),
    Layout("weights and their average in a trainer's file", "{'model': ..., 'ema': ...}",
           call(average_of_a_trainer, None)),
    Layout("an adapter beside the index", "pytorch_lora_weights.safetensors",
           call(beside_the_index, "pytorch_lora_weights.safetensors")),
    Layout("a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1", pointer),
    Layout("integers", "blocks.0.ffn.net.2.weight of uint8",
           call(changed, "blocks.0.ffn.net.2.weight", torch.Tensor.byte)),
    Layout("GGUF", "wan2.1-t2v-14b-Q4_K_M.gguf", gguf, init_from_wan=True),
    Layout("a folder of GGUF", "folder/wan2.1-t2v-14b-Q4_K_M.gguf", gguf_folder),
    Layout("four bits of bitsandbytes", "blocks.0.ffn.0.weight.absmax",
           call(with_tensor, "blocks.0.ffn.0.weight.absmax"), init_from_wan=True),
    Layout("a configuration of quantised weights", "quantization_config",
           call(with_option, quantization_config={"quant_method": "bitsandbytes"})),
    Layout("another format of ComfyUI", 'comfy_quant: {"format": "nvfp4"}', of_another_float),
    Layout("an adapter's file as --source", "paint/pytorch_lora_weights.safetensors",
           call(adapter, False)),
    Layout("an adapter's folder as --source", "paint/", call(adapter, True)),
    Layout("restricted self-attention", "restrict_self_attn: true",
           call(with_option, restrict_self_attn=True)),
    Layout("adapters for the history", "restrict_lora: true",
           call(with_option, restrict_lora=True)),
    Layout("an option that nobody knows", "use_moe: true", call(with_option, use_moe=True)),
    Layout("a transformer alone", "transformer/", transformer_alone),
    Layout("a VAE's folder", "vae/", call(component, "vae")),
    Layout("a VAE's file", "wan_2.1_vae.safetensors", vae_file),
    Layout("a checkpoint of ours", "digests.json", converted_already),
    Layout("a Helios with a Wan's rest", "--rest Wan2.1-T2V-1.3B-Diffusers",
           helios_with_a_wans_rest),
    Layout("a shard is missing", "diffusion_pytorch_model-00001-of-00008.safetensors",
           call(without, "transformer/*-of-*.safetensors")),
    Layout("a part is missing", "no vae/", call(without, "vae")),
    Layout("a blob of the cache is missing", "models--BestWishYsh--Helios-Base",
           cut_in_the_cache),
    Layout("a repository that is not in the cache", "--source BestWishYsh/Helios-Mid",
           lambda: Selection("BestWishYsh/Helios-Mid")),
    Layout("a folder that was never downloaded", "--source helios-distilled",
           lambda: Selection("helios-distilled")),
    Layout("a part that is not read", "image_encoder", call(with_part, "image_encoder")),
    Layout("a folder of weights that is not read", "controlnet/", call(with_folder, "controlnet")),
    Layout("pickles in the place of safetensors", "vae/diffusion_pytorch_model.bin", with_pickles),
    Layout("a Wan without --init_from_wan", "WanPipeline",
           lambda: Selection(wan("Wan2.1-T2V-1.3B-Diffusers"))),
    Layout("a Helios with --init_from_wan", "HeliosPipeline",
           lambda: Selection(helios("Helios-Base", "base")), init_from_wan=True),
)  # fmt: skip
