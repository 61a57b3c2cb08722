"""Files that are given as adapters and are none, or none of this model."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from helios_jax.config import TransformerConfig

from .adapter_styles import Tensors, base, file_of, folded, pairs, peft_folder

SMALL = TransformerConfig(
    num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30
)
"""The geometry of the 1.3B model."""

Q = "blocks.0.attn1.to_q"


class Refused(NamedTuple):
    """A file that is refused.

    Attributes:
      kind: what it is, for a reader.
      example: a key, or the files.
      write: writes it into an empty folder, and returns what --lora is given.
      config: of the base, where it is not the toy's.
    """

    kind: str
    example: str
    write: Callable[[Path], str]
    config: TransformerConfig | None = None


def keys(kind: str, *names: str, shape: tuple[int, ...] = (4, 24)) -> Refused:
    """A file of tensors of one shape."""
    return Refused(
        kind, names[0].replace("\n", r"\n"), file_of({name: torch.zeros(shape) for name in names})
    )


def pair(prefix: str, down: tuple[int, ...], up: tuple[int, ...]) -> Tensors:
    """Factors of given shapes."""
    return {
        f"{prefix}.lora_A.weight": torch.zeros(down),
        f"{prefix}.lora_B.weight": torch.zeros(up),
    }


def plain() -> Tensors:
    """An adapter that could be merged."""
    return {f"transformer.{key}": value for key, value in folded(pairs([Q])).items()}


def with_settings(kind: str, settings: dict) -> Refused:
    """PEFT's folder with some settings."""
    tensors = {f"base_model.model.{key}": value for key, value in folded(pairs([Q])).items()}
    return Refused(kind, f"adapter_config.json {settings}", peft_folder(tensors, settings))


def broken(kind: str, change: Callable[[Tensors], Tensors], example: str) -> Refused:
    """An adapter that could be merged, after a change."""
    return Refused(kind, example, file_of(change(plain())))


def with_nan(tensors: Tensors) -> Tensors:
    first = next(iter(tensors))
    return tensors | {first: torch.full_like(tensors[first], torch.nan)}


def without_up(tensors: Tensors) -> Tensors:
    return {key: value for key, value in tensors.items() if "lora_B" not in key}


def other_rank(tensors: Tensors) -> Tensors:
    return tensors | {f"transformer.{Q}.lora_B.weight": torch.zeros(24, 8)}


def two_alphas(tensors: Tensors) -> Tensors:
    return tensors | {f"transformer.{Q}.alpha": torch.ones(2)}


def twice(tensors: Tensors) -> Tensors:
    return tensors | {"diffusion_model.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 24)}


def two_adapters(tensors: Tensors) -> Tensors:
    found = {}
    for name in ("first", "second"):
        for key, value in tensors.items():
            found[key.removesuffix("weight") + f"{name}.weight"] = value.clone()
    return found


def integers(tensors: Tensors) -> Tensors:
    return {key: value.to(torch.uint8) for key, value in tensors.items()}


def of_14b(prefix: str) -> Tensors:
    """Factors of rank 1 of the 14B model's first and last block."""
    tensors = {}
    for block in (0, 39):
        for name in ("self_attn.q", "self_attn.k", "cross_attn.o"):
            tensors |= pair(f"{prefix}blocks.{block}.{name}", (1, 5120), (5120, 1))
    return tensors


def whole_model(folder: Path) -> str:
    base().save_pretrained(folder / "transformer")
    return "transformer"


def bytes_file(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return write


def code(folder: Path) -> str:
    torch.save({"lora": print}, folder / "adapter.pt")
    return "adapter.pt"


def in_itself(folder: Path) -> str:
    state: dict = {"step": 1}
    state["state"] = state
    torch.save(state, folder / "adapter.pt")
    return "adapter.pt"


def several(folder: Path) -> str:
    for name in ("a", "b", "c", "d"):
        file_of(plain(), f"{name}.safetensors")(folder)
    return "."


def with_strength(text: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        return f"{file_of(plain())(folder)}:{text}"

    return write


def bad_metadata(folder: Path) -> str:
    save_file(plain(), folder / "adapter.safetensors", {"lora_adapter_metadata": "["})
    return "adapter.safetensors"


B = "diffusion_model.blocks.0.self_attn.q"
HEADER = b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'
CUT_SHORT = len(HEADER).to_bytes(8, "little") + HEADER + bytes(7)
REFUSED = [
    keys("DoRA", f"{B}.dora_scale", f"{B}.lora_down.weight", f"{B}.lora_up.weight"),
    keys("DoRA of PEFT", f"base_model.model.{Q}.lora_magnitude_vector"),
    with_settings("DoRA by its settings", {"use_dora": True}),
    keys("LoKr", *(f"lycoris_blocks_{i}_self_attn_q.lokr_w{n}" for i in range(40) for n in (1, 2))),
    keys("LoHa", f"{B}.hada_w1_a", f"{B}.hada_w1_b", f"{B}.hada_w2_a", f"{B}.hada_w2_b"),
    keys("OFT", "lora_unet_blocks_0_self_attn_q.oft_blocks"),
    keys("OFT of PEFT", f"base_model.model.{Q}.oft_R.weight"),
    keys("GLoRA", f"{B}.a1.weight", f"{B}.a2.weight", f"{B}.b1.weight", f"{B}.b2.weight"),
    keys("Tucker's core", f"{B}.lora_mid.weight", f"{B}.lora_down.weight", f"{B}.lora_up.weight"),
    with_settings("another method of PEFT", {"peft_type": "LOHA"}),
    with_settings("repeated layers", {"layer_replication": [[0, 2], [1, 3]]}),
    with_settings("begun from changed base weights", {"init_lora_weights": "pissa"}),
    with_settings("settings of another file", {"r": 8, "lora_alpha": 16}),
    keys("trained with restrict_lora", "blocks.0.attn1.q_loras.down.weight"),
    keys(
        "image-to-video",
        *(
            f"diffusion_model.blocks.0.cross_attn.{part}.lora_down.weight"
            for part in ("k_img", "q")
        ),
    ),
    keys("image-to-video, Diffusers", "transformer.blocks.0.attn2.add_k_proj.lora_A.weight"),
    keys("VACE", "diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight"),
    keys("Wan-Animate", "diffusion_model.face_adapter.fuser_blocks.0.linear1_kv.lora_A.weight"),
    keys("Fun-Control", "diffusion_model.ref_conv.lora_A.weight"),
    Refused(
        "image-to-video, by its channels",
        "patch_embedding.lora_A [3, 36, 1, 2, 2]",
        file_of(pair("patch_embedding", (3, 36, 1, 2, 2), (24, 3, 1, 1, 1))),
    ),
    keys("Wan 2.2's second transformer", "transformer_2.blocks.0.attn1.to_q.lora_A.weight"),
    keys("a text encoder's", "lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight"),
    keys("SDXL", "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight"),
    keys("SDXL, Diffusers", "unet.mid_block.attentions.0.proj_in.lora_A.weight"),
    keys("Flux, kohya", "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"),
    keys("Flux, Diffusers", "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"),
    keys("LTX, SD3", "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"),
    keys("HunyuanVideo", "diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight"),
    keys("a language model's", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
    keys("nothing that is known", *(f"net.{number}.lora_A.weight" for number in range(1000))),
    keys("a name of 5,000 letters", "x" * 5000),
    Refused("14B on 1.3B, names of Wan", f"{B} [5120, 1]", file_of(of_14b("")), SMALL),
    Refused("14B on 1.3B, ComfyUI", f"{B} [5120, 1]", file_of(of_14b("diffusion_model.")), SMALL),
    Refused(
        "more blocks than there are",
        "transformer.blocks.39.attn1.to_q",
        file_of(pair("transformer.blocks.39.attn1.to_q", (4, 24), (24, 4))),
    ),
    Refused(
        "another text encoder",
        "text_embedding.0 [24, 4] x [4, 77]",
        file_of(pair("text_embedding.0", (4, 77), (24, 4))),
    ),
    broken("ranks that differ", other_rank, "lora_A [3, 24], lora_B [24, 8]"),
    broken("half of a pair", without_up, "lora_A without lora_B"),
    keys("a bias without its factors", f"transformer.{Q}.lora_B.bias", shape=(24,)),
    keys("an alpha alone", f"transformer.{Q}.alpha", shape=()),
    broken("an alpha of two numbers", two_alphas, "alpha [2]"),
    broken("NaN", with_nan, "lora_A full of NaN"),
    broken("integers", integers, "lora_A in uint8"),
    broken("one place twice", twice, "transformer.* and diffusion_model.*"),
    broken("two adapters in a file", two_adapters, "lora_A.first.weight, lora_A.second.weight"),
    Refused(
        "an unmerged model",
        "to_q.base_layer.weight",
        file_of({f"{Q}.base_layer.weight": torch.zeros(24, 24)}),
    ),
    Refused("a whole transformer", "transformer/", whole_model),
    Refused("no tensors", "adapter.safetensors {}", file_of({})),
    Refused("cut short", "adapter.safetensors", bytes_file("adapter.safetensors", CUT_SHORT)),
    Refused("before PyTorch 1.6", "adapter.pt", bytes_file("adapter.pt", b"\x80\x02.")),
    Refused("a pickle that runs code", "adapter.pt {'lora': print}", code),
    Refused("a dictionary in itself", "adapter.pt {'state': {...}}", in_itself),
    keys("a name of two lines", "blocks.0\nattn1.to_q.lora_A.weight"),
    Refused("settings that are no JSON", "lora_adapter_metadata [", bad_metadata),
    Refused("no such file", "paint.safetensors", lambda folder: "paint.safetensors"),
    Refused("an empty folder", ".", lambda folder: "."),
    Refused("a folder of several", "a.safetensors ... d.safetensors", several),
    Refused("a strength that is NaN", "adapter.safetensors:nan", with_strength("nan")),
    Refused("a strength beyond all use", "adapter.safetensors:1e39", with_strength("1e39")),
    Refused("a strength that is no number", "adapter.safetensors:half", with_strength("half")),
]
