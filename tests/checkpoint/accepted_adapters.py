"""The styles of adapters that are merged."""

from pathlib import Path

import torch

from .adapter_styles import (
    EMBEDDINGS,
    LINEARS,
    RANK,
    WIDTH,
    Style,
    base,
    file_of,
    flat,
    folded,
    half_flat,
    named,
    pairs,
    peft_folder,
    wan,
)

KOHYA = ("lora_down.weight", "lora_up.weight")
PARAMETERS = ("lora_A", "lora_B")
DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")
STYLE = ("lora_A.my-style_2.weight", "lora_B.my-style_2.weight")
EARLIER = ("lora.down.weight", "lora.up.weight")
PATCHES = [f"patch_{name}" for name in ("embedding", "short", "mid", "long")]


def wan_flat(name: str) -> str:
    return flat(wan(name))


def wan_half_flat(name: str) -> str:
    return half_flat(wan(name))


NAMES = [
    named("Diffusers' own", "transformer.", oracle="file"),
    named("with PEFT's adapter name", "transformer.", factors=DEFAULT),
    named("with another adapter name", "transformer.", factors=STYLE),
    named("ComfyUI, names of Wan", "diffusion_model.", wan, oracle="file"),
    named("ComfyUI, names of Diffusers", "diffusion_model."),
    named("lora_down, lora_up", "diffusion_model.", wan, factors=KOHYA, oracle="file"),
    named("with alpha", "diffusion_model.", wan, factors=KOHYA, alpha=2.0, oracle="file"),
    named("PEFT on Diffusers' model", "base_model.model."),
    named("PEFT on the original model", "base_model.model.", wan),
    named("PEFT on a pipeline", "base_model.model.transformer."),
    named("PEFT in Diffusers", "transformer.base_model.model.", factors=DEFAULT),
    named("doubled prefix, Diffusers", "transformer.transformer."),
    named("doubled prefix, Wan", "diffusion_model.diffusion_model.", wan),
    named("no prefix, names of Diffusers", ""),
    named("no prefix, names of Wan", "", wan, factors=DEFAULT),
    named("whole ComfyUI checkpoint", "model.diffusion_model.", wan),
    named("DiffSynth", "pipe.dit.", wan, factors=DEFAULT),
    named("data parallel", "module.", wan),
    named("compiled", "_orig_mod."),
    named("factors as parameters", "transformer.", factors=PARAMETERS),
    named("Diffusers, alpha beside", "transformer.", alpha=6.0),
    named("Diffusers' earlier names", "transformer.", factors=EARLIER),
    named("musubi, kohya", "lora_unet_", wan_flat, factors=KOHYA, alpha=2.0, oracle="file"),
    named("kohya without alpha", "lora_unet_", wan_flat, factors=KOHYA),
    named("kohya in bfloat16", "lora_unet_", wan_flat, factors=KOHYA, dtype=torch.bfloat16),
    named("VideoX-Fun", "lora_unet__", wan_flat, factors=KOHYA, alpha=1.0),
    named("kohya, half flat", "lora_unet_", wan_half_flat, factors=KOHYA, alpha=2.0),
    named("kohya, names of Diffusers", "lora_unet_", flat, factors=KOHYA, alpha=2.0),
    named("OneTrainer", "lora_transformer_", flat, factors=KOHYA, alpha=2.0),
    named("LyCORIS, a plain LoRA", "lycoris_", wan_flat, factors=KOHYA, alpha=2.0),
    named("in float16", "transformer.", dtype=torch.float16),
    named("in eight bits", "transformer.", dtype=torch.float8_e4m3fn),
    named("a .pt file", "transformer.", file="adapter.pt"),
    named("a .bin file", "", factors=DEFAULT, file="pytorch_lora_weights.bin"),
]


def settings_in_metadata() -> list[Style]:
    """Alpha and ranks that Diffusers keeps in a file's metadata."""
    found = pairs()
    tensors = {f"transformer.{key}": value for key, value in folded(found).items()}
    targets = {"r": RANK, "target_modules": LINEARS}
    special = "blocks.1.attn1.to_q"
    scales = {module: 3.0 if module == special else 8 / RANK for module in found}
    other = dict(found)
    other[special] = pairs([special], rank=2)[special]
    mixed = {f"transformer.{key}": value for key, value in folded(other).items()}
    patterns = {"lora_alpha": 8, "rank_pattern": {special: 2}, "alpha_pattern": {special: 6}}
    root = {"lora_alpha": 6, "use_rslora": True}

    def style(kind: str, tensors: dict, settings: dict, change: dict) -> Style:
        write = file_of(tensors, settings=targets | settings)
        return Style(kind, f"lora_adapter_metadata {settings}", write, change, "file")

    return [
        style("alpha in the metadata", tensors, {"lora_alpha": 8}, folded(found, 8 / RANK)),
        style("a rank and an alpha of its own", mixed, patterns, folded(other, scales)),
        style("alpha over the root of the rank", tensors, root, folded(found, 6 / RANK**0.5)),
    ]


def settings_in_folder() -> list[Style]:
    """Folders as PEFT saves them."""
    found = pairs()
    tensors = {f"base_model.model.{key}": value for key, value in folded(found).items()}
    common = {"r": RANK, "target_modules": LINEARS}
    special = "blocks.1.attn1.to_q"
    scales = {module: 3.0 if module == special else 8 / RANK for module in found}
    other = dict(found)
    other[special] = pairs([special], rank=2)[special]
    mixed = {f"base_model.model.{key}": value for key, value in folded(other).items()}
    short = "1.attn1.to_q"
    patterns = {"lora_alpha": 8, "rank_pattern": {short: 2}, "alpha_pattern": {short: 6}}
    root = {"lora_alpha": 6, "use_rslora": True}
    bare = folded(found)

    def style(kind: str, tensors: dict, config: dict, change: dict, oracle: str = "PEFT") -> Style:
        write = peft_folder(tensors, common | config)
        return Style(kind, f"adapter_config.json {config}", write, change, oracle)

    generator = torch.Generator().manual_seed(2)
    bias = {f"{module}.bias": torch.randn(WIDTH, generator=generator) for module in LINEARS[:4]}
    biased = dict(tensors)
    for name, value in bias.items():
        biased[f"base_model.model.{name.removesuffix('bias')}base_layer.bias"] = value
    head = {"proj_out.weight": torch.randn(16, WIDTH, generator=generator)}
    head["proj_out.bias"] = torch.randn(16, generator=generator)
    headed = tensors | {f"base_model.model.{name}": value for name, value in head.items()}
    saved = {"lora_alpha": 8, "modules_to_save": ["proj_out"]}

    def replaced(values: dict) -> dict:
        return folded(found, 8 / RANK) | {f"={name}": value for name, value in values.items()}

    return [
        style("PEFT's folder", tensors, {"lora_alpha": 8}, folded(found, 8 / RANK)),
        style("PEFT's folder, alpha left out", tensors, {}, folded(found, 8 / RANK)),
        style("with patterns", mixed, patterns, folded(other, scales)),
        style("over the root of the rank", tensors, root, folded(found, 6 / RANK**0.5)),
        style("with biases", biased, {"lora_alpha": 8, "bias": "all"}, replaced(bias)),
        style("with modules_to_save", headed, saved, replaced(head)),
        style("names without a prefix", bare, {"lora_alpha": 8}, folded(found, 8 / RANK), "names"),
    ]


def beside_factors() -> list[Style]:
    """What is trained beside the factors: biases, norms, embeddings, modulation and the head."""
    found = pairs()
    plain = folded(found)
    generator = torch.Generator().manual_seed(1)
    shapes = {name: tensor.shape for name, tensor in base().state_dict().items()}
    draw = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    factors = {}
    for module, pair in found.items():
        factors[f"diffusion_model.{wan(module)}.lora_down.weight"] = pair.down
        factors[f"diffusion_model.{wan(module)}.lora_up.weight"] = pair.up
    tables = ["blocks.1.scale_shift_table", "norm_out.scale_shift_table"]

    def differing(kind: str, keys: dict[str, str], oracle: str = "names") -> Style:
        """A LoRA with tensors that are added: their keys by the names of those they change."""
        tensors = factors | {f"diffusion_model.{key}": draw[name] for name, key in keys.items()}
        change = plain | {f"+{name}": draw[name] for name in keys}
        (example, *_) = keys.values()
        return Style(kind, f"diffusion_model.{example}", file_of(tensors), change, oracle)

    biases = {f"{module}.bias": f"{wan(module)}.diff_b" for module in LINEARS}
    with_bias = plain | {f"{module}.lora_B.bias": draw[f"{module}.bias"] for module in LINEARS}
    scaled = folded(found, 8 / RANK)
    for module in LINEARS:
        scaled[f"{module}.lora_B.bias"] = 8 / RANK * draw[f"{module}.bias"]
    saved = {f"transformer.{key}": value for key, value in with_bias.items()}
    settings = {"r": RANK, "lora_alpha": 8, "lora_bias": True, "target_modules": LINEARS}
    norm = "blocks.2.norm2"
    embeddings = {f"{name}.weight": f"{wan(name)}.diff" for name in EMBEDDINGS}
    embeddings |= {f"{name}.weight": f"{name}.diff" for name in PATCHES}
    head = {"proj_out.weight": "head.head.diff", "proj_out.bias": "head.head.diff_b"}
    patches = folded(pairs(PATCHES))
    patch_file = file_of({f"transformer.{key}": value for key, value in patches.items()})
    whole = "blocks.2.attn2.norm_k.weight"
    with_whole = {f"transformer.{key}": value for key, value in plain.items()}
    with_whole[f"transformer.{whole}"] = draw[whole]
    several = plain | folded(pairs([*EMBEDDINGS, "proj_out"], rank=2))
    mixed = {f"transformer.{key}": value for key, value in several.items()}
    dense = {f"{module}.weight": f"{wan(module)}.diff" for module in LINEARS[:3]}
    alone = {f"diffusion_model.{key}": draw[name] for name, key in dense.items()}
    return [
        differing("LightX2V, CausVid: biases", biases, "file"),
        Style(
            "PEFT's lora_bias, scaled as the factors are",
            "transformer.blocks.0.attn1.to_q.lora_B.bias",
            file_of(saved, settings=settings),
            scaled,
            "file",
        ),
        differing(
            "norms; Diffusers leaves them out",
            {f"{norm}.weight": f"{wan(norm)}.diff", f"{norm}.bias": f"{wan(norm)}.diff_b"},
        ),
        differing("query and key norms", {whole: "blocks.2.cross_attn.norm_k.diff"}),
        differing("embeddings", embeddings),
        differing("the head", head, "file"),
        differing("modulation", {tables[0]: "blocks.1.diff_m", tables[1]: "head.diff_m"}),
        differing("modulation by name", {name: f"{wan(name)}.diff" for name in tables}),
        differing("LyCORIS' norms", {f"{norm}.weight": "blocks.2.norm3.w_norm"}),
        Style(
            "full differences alone",
            next(iter(alone)),
            file_of(alone),
            {f"+{name}": draw[name] for name in dense},
        ),
        Style(
            "whole norms beside factors",
            f"transformer.{whole}",
            file_of(with_whole),
            plain | {f"={whole}": draw[whole]},
        ),
        Style(
            "history patches: factors of a convolution",
            "transformer.patch_mid.lora_A.weight [r, C, 2, 4, 4]",
            patch_file,
            patches,
            "file",
        ),
        Style(
            "embedder, head and blocks, of two ranks",
            "transformer.condition_embedder.time_proj.lora_A.weight",
            file_of(mixed),
            several,
            "file",
        ),
    ]


def beside_other_settings() -> Style:
    """A file that says alpha itself, beside the settings of another."""
    own = named("", "lora_unet_", wan_flat, factors=KOHYA, alpha=2.0)

    def write(folder: Path) -> str:
        (folder / "adapter_config.json").write_text('{"r": 64, "lora_alpha": 32}')
        return own.write(folder)

    return own._replace(kind="kohya's file beside the settings of another", write=write)


def nested_pickle() -> Style:
    """A dictionary in a dictionary, with rank and alpha beside it."""
    found = pairs()

    def write(folder: Path) -> str:
        state = {"state_dict": folded(found), "rank": RANK, "alpha": 8.0, "step": 1000}
        torch.save(state, folder / "visible_lora_state.pt")
        return "visible_lora_state.pt"

    example = "visible_lora_state.pt {state_dict, rank, alpha, step}"
    return Style("a .pt file with its settings", example, write, folded(found, 8 / RANK))


def named_folder() -> Style:
    """PEFT's folder of an adapter that is not called default."""
    found = pairs()
    tensors = {f"base_model.model.{key}": value for key, value in folded(found).items()}

    def write(folder: Path) -> str:
        peft_folder(tensors, {"r": RANK, "lora_alpha": 8, "target_modules": LINEARS})(folder)
        (folder / "saved").mkdir()
        (folder / "adapter").rename(folder / "saved" / "paint")
        return "saved"

    example = "saved/paint/adapter_config.json {'lora_alpha': 8}"
    return Style("PEFT's folder of a named adapter", example, write, folded(found, 8 / RANK))


def numbers_beside_tensors() -> Style:
    """A file of torch.save in which alpha is a number of Python's."""
    found = pairs()

    def write(folder: Path) -> str:
        state = folded(found) | {f"{module}.alpha": 2.0 for module in found}
        torch.save(state, folder / "adapter.pt")
        return "adapter.pt"

    example = "adapter.pt {..., 'blocks.0.attn1.to_q.alpha': 2.0}"
    return Style("a .pt file with numbers", example, write, folded(found, 2 / RANK))


def strengths() -> list[Style]:
    """A strength after the file's name."""
    found = pairs()
    tensors = {f"transformer.{key}": value for key, value in folded(found).items()}

    def style(kind: str, name: str, strength: str, scale: float) -> Style:
        write = file_of(tensors, name)
        given = lambda folder: f"{write(folder)}{strength}"
        return Style(kind, f"--lora {name}{strength}", given, folded(found, scale))

    return [
        style("half of it", "paint.safetensors", ":0.5", 0.5),
        style("the other way", "paint.safetensors", ":-1", -1.0),
        style("nothing of it", "paint.safetensors", ":0", 0.0),
        style("a colon in the name", "style:2", "", 1.0),
        style("a colon in the name, and a strength", "C:\\loras\\paint.safetensors", ":0.5", 0.5),
    ]


ACCEPTED = [
    *NAMES,
    *settings_in_metadata(),
    *settings_in_folder(),
    *beside_factors(),
    named_folder(),
    beside_other_settings(),
    nested_pickle(),
    numbers_beside_tensors(),
    *strengths(),
]
