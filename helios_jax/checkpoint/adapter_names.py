"""What adapter files call the transformer's tensors: tables of prefixes, modules and suffixes.

A key is a prefix (or several), a module and a suffix. Trainers write modules with dots, with
underscores or with both, so names are compared with every joint as one underscore:
``lora_unet__blocks_0_self_attn_q``, ``lora_unet_blocks_0.self_attn.q`` and
``diffusion_model.blocks.0.self_attn.q`` are one module.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from helios_jax.checkpoint.kinds import unwrapped

Role = Literal["down", "up", "up_bias", "alpha", "difference", "whole"]
"""What a tensor is: ``A``, ``B``, the bias that came with ``B``, alpha, a difference that is added,
or a whole tensor in the place of the base's."""

Naming = Literal["Diffusers", "Wan"]
NAMINGS: tuple[Naming, Naming] = ("Diffusers", "Wan")

PREFIXES = (
    r"(transformer|diffusion_model|base_model\.model|model|module|pipe\.(dit|transformer)|dit|unet"
    r"|net|network|student)\.",
    r"(lora_unet|lora_transformer|lycoris)[._]+",
)
"""What stands before a module, any number of times."""

ATTENTION = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
NORMS = (("norm_q", "norm_q"), ("norm_k", "norm_k"))

MAX_KEY = 1000
"""Letters; the longest that is known has 120."""

MAX_PREFIXES = 16
"""That are taken off a name; a file with more is made to take time."""

MODULES = (
    *((f"patch_{name}", f"patch_{name}") for name in ("embedding", "short", "mid", "long")),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    *((f"blocks.#.attn1.{ours}", f"blocks.#.self_attn.{wan}") for ours, wan in ATTENTION + NORMS),
    *((f"blocks.#.attn2.{ours}", f"blocks.#.cross_attn.{wan}") for ours, wan in ATTENTION + NORMS),
    ("blocks.#.norm2", "blocks.#.norm3"),
    ("blocks.#.ffn.net.0.proj", "blocks.#.ffn.0"),
    ("blocks.#.ffn.net.2", "blocks.#.ffn.2"),
    ("proj_out", "head.head"),
)
"""Modules that have a weight, and most of them a bias: in Diffusers' names and in Wan's."""

TABLES = (
    ("blocks.#.scale_shift_table", "blocks.#.modulation"),
    ("norm_out.scale_shift_table", "head.modulation"),
    ("scale_shift_table", "head.modulation"),
    ("blocks.#.attn1.history_key_scale", "blocks.#.self_attn.history_key_scale"),
)
"""Tensors that are no module's weight or bias; the third is the second in Wan's Diffusers model."""

MODULATION = {"Diffusers": "scale_shift_table", "Wan": "modulation"}
"""The table that ``diff_m`` changes of a block or of the head."""

EARLIER = {"scale_shift_table": "norm_out.scale_shift_table"}
"""Names of Wan in Diffusers, to those of Helios."""

_ADAPTER = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
SUFFIXES: tuple[tuple[str, Role, str], ...] = (
    (rf"[._]lora[._](?:A|down){_ADAPTER}(?:\.weight)?", "down", "weight"),
    (rf"[._]lora[._](?:B|up){_ADAPTER}(?:\.weight)?", "up", "weight"),
    (rf"[._]lora[._](?:B|up){_ADAPTER}\.bias", "up_bias", "bias"),
    (r"\.alpha", "alpha", "weight"),
    (r"(?:\.weight)?\.diff|\.w_norm", "difference", "weight"),
    (r"\.diff_b|\.bias\.diff|\.b_norm", "difference", "bias"),
    (r"\.diff_m", "difference", "table"),
    (rf"(?:\.modules_to_save{_ADAPTER})?\.weight", "whole", "weight"),
    (rf"(?:\.modules_to_save{_ADAPTER}|\.base_layer)?\.bias", "whole", "bias"),
    (r"", "whole", "table"),
)
"""How a key ends, what the tensor is then, and which of the module's parameters it changes."""

OTHER_KINDS = (
    (r"\.dora_scale|\.lora_magnitude_vector", "a DoRA adapter"),
    (r"[._]lokr_", "a LoKr adapter"),
    (r"[._]hada_", "a LoHa adapter"),
    (r"[._]b?oft_|\.oft_R", "an OFT adapter"),
    (r"\.lora_(mid|t1|t2)\b|\.lora_E\b", "a LoRA with a core matrix between its two factors"),
    (r"\.[ab][12]\.weight$", "a GLoRA adapter"),
    (
        r"\.(vera_lambda|ia3_l|on_input$|lora_embedding_[AB]|fourierft_|hra_u|bone_|miss_|road_"
        r"|c3a_|shira_|randlora_|poly_lora|vblora_|glora_|loha_|waveft_|cartridge_)",
        "an adapter of another method",
    ),
    (r"\.base_layer\.weight|\.original_module\.", "a whole model with its adapter still apart"),
    (r"_loras\.(down|up)\.", "an artefact of training with restrict_lora (q_loras, k_loras)"),
)
"""Keys that say that a file is no plain LoRA, and of what it is one."""

OTHER_MODELS = (
    (
        r"[._]k_img|[._]v_img|img_emb|image_embedder|add_[kv]_proj|norm_added",
        "an image-to-video Wan; Helios comes from text-to-video",
    ),
    (r"^transformer_2\.", "the second transformer of Wan 2.2"),
    (r"lora_te\d?_|text_encoder|text_model|clip_[lg]\.", "a text encoder, which is not adapted"),
    (r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks", "a UNet (Stable Diffusion)"),
    (r"double_blocks|single_blocks|double_stream|single_stream", "Flux or HunyuanVideo"),
    (r"single_transformer_blocks", "Flux"),
    (r"joint_blocks|transformer_blocks", "another diffusion transformer (SD3, LTX, Qwen-Image)"),
    (r"(^|\.)layers\.\d+\.(self_attn|mlp)\.", "a language model"),
)
"""Keys that say that a file belongs to another model, and to which."""


class Part(NamedTuple):
    """What a key of an adapter file says.

    Attributes:
      tensor: the base's tensor that it changes, in Diffusers' names.
      role: what the tensor is.
      module: the module in the file's own names, without prefixes, with dots where it has them.
      adapter: the adapter's name within the file, where it has one.
    """

    tensor: str
    role: Role
    module: str
    adapter: str | None


def read_key(key: str, naming: Naming) -> Part | None:
    """What a key says in one naming; None if it says nothing there."""
    if len(key) > MAX_KEY:
        return None
    for suffix, role, parameter in SUFFIXES:
        match = re.search(rf"(?:{suffix})\Z", key)
        if match is None:
            continue
        module = strip_prefixes(key[: match.start()])
        if (role, parameter) == ("difference", "table"):
            module = f"{module}.{MODULATION[naming]}"
        number, pattern = _flat(module)
        tensor = _TENSORS[naming].get((pattern, parameter))
        if tensor is not None:
            return Part(tensor.replace("#", number), role, module, match.groupdict().get("adapter"))
    return None


def best_naming(keys: Iterable[str]) -> Naming:
    """The naming in which most keys say something; Diffusers' where both do as well."""
    keys = list(keys)
    return max(NAMINGS, key=lambda naming: sum(read_key(key, naming) is not None for key in keys))


def strip_prefixes(name: str) -> str:
    """A name without what stands before its module."""
    name = unwrapped(name)
    for _ in range(MAX_PREFIXES):
        match = re.match("|".join(PREFIXES), name)
        if match is None:
            break
        name = name[match.end() :]
    return name


def _flat(module: str) -> tuple[str, str]:
    """The number of a module's block, "" if it is in none, and the rest of its name with ``#`` in
    its place and every joint an underscore.
    """
    name = re.sub(r"[._]+", "_", module).strip("_")
    if match := re.match(r"blocks_([0-9]{1,4})(?=_|$)", name):
        return match[1], f"blocks_#{name[match.end() :]}"
    return "", name


def _tensors(column: int) -> dict[tuple[str, str], str]:
    """Diffusers' name of a tensor by flat module and parameter, for one column of the tables."""
    found = {}
    for row in MODULES:
        for parameter in ("weight", "bias"):
            found[_flat(row[column])[1], parameter] = f"{row[0]}.{parameter}"
    for row in TABLES:
        name = EARLIER.get(row[0], row[0])
        found[_flat(row[column])[1], "weight"] = name  # as the module of a difference
        found[_flat(row[column])[1], "table"] = name
    return found


_TENSORS = {naming: _tensors(column) for column, naming in enumerate(NAMINGS)}
