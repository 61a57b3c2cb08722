"""The name tables of HeliosBench's networks: every tensor in the names of its files and in ours."""

from helios_jax.checkpoint.layout import Slot, linear, norm, stack, tensor
from helios_jax.evaluation.bench.networks.clip import VisionConfig
from helios_jax.evaluation.bench.networks.viclip import TextConfig

CLIP_PREFIX = "visual."
"""Before the names of the image encoder in OpenAI's file, which holds a text encoder too."""

CLIP_HF_PREFIX = "vision_model."
"""The same in Transformers' file, where :data:`CLIP_HF_PROJECTION` alone lacks it."""

CLIP_HF_PROJECTION = "visual_projection.weight"
VICLIP_PREFIXES = ("vision_encoder.", "text_encoder.")


def clip_slots(config: VisionConfig) -> list[Slot]:
    """OpenAI's image encoder, names after :data:`CLIP_PREFIX`."""
    width = config.width
    patch = (config.patch_size, config.patch_size)
    return [
        *tensor("class_embedding", "class_embedding", (width,)),
        *_patch_embedding("conv1.weight", width, patch),
        *tensor("positional_embedding", "position_embedding", (1 + config.patches, width)),
        *norm("ln_pre", "trunk/ln_pre", width, bias=True),
        *_blocks("transformer.resblocks", "trunk/", config.layers, width, config.heads),
        *norm("ln_post", "trunk/ln_post", width, bias=True),
        *tensor("proj", "trunk/proj/kernel", (width, config.features)),
    ]


def clip_hf_slots(config: VisionConfig) -> list[Slot]:
    """Transformers' ``CLIPVisionModelWithProjection``, names whole."""
    width = config.width
    heads = (config.heads, width // config.heads)
    path = "trunk/transformer/blocks"
    attention = []
    for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
        attention += linear(f"self_attn.{name}", f"{path}/attn/qkv", (width,), heads, (part, 3))
    block = [
        *norm("layer_norm1", f"{path}/ln_1", width, bias=True),
        *attention,
        *linear("self_attn.out_proj", f"{path}/attn/out", heads, (width,)),
        *norm("layer_norm2", f"{path}/ln_2", width, bias=True),
        *linear("mlp.fc1", f"{path}/c_fc", (width,), (4 * width,)),
        *linear("mlp.fc2", f"{path}/c_proj", (4 * width,), (width,)),
    ]
    prefix = CLIP_HF_PREFIX
    embeddings = f"{CLIP_HF_PREFIX}embeddings"
    patch = (config.patch_size, config.patch_size)
    positions = (1 + config.patches, width)
    return [
        *tensor(f"{embeddings}.class_embedding", "class_embedding", (width,)),
        *_patch_embedding(f"{embeddings}.patch_embedding.weight", width, patch),
        *tensor(f"{embeddings}.position_embedding.weight", "position_embedding", positions),
        *norm(f"{prefix}pre_layrnorm", "trunk/ln_pre", width, bias=True),  # so it is spelt there
        *stack(f"{prefix}encoder.layers", config.layers, block),
        *norm(f"{prefix}post_layernorm", "trunk/ln_post", width, bias=True),
        *linear("visual_projection", "trunk/proj", (width,), (config.features,), bias=False),
    ]


def aesthetic_slots(config: VisionConfig) -> list[Slot]:
    """LAION's head."""
    return [
        *tensor("weight", "linear/kernel", (1, config.features), (config.features, 1), (1, 0)),
        *tensor("bias", "linear/bias", (1,)),
    ]


def viclip_vision_slots(config: VisionConfig) -> list[Slot]:
    """ViCLIP's video encoder, names after the first of :data:`VICLIP_PREFIXES`."""
    width = config.width
    shape = (1, config.patch_size, config.patch_size)
    own = [
        *_patch_embedding("conv1.weight", width, shape),
        *tensor(
            "temporal_positional_embedding",
            "temporal_embedding",
            (1, config.frames, width),
            (config.frames, width),
        ),
    ]
    return [*own, *(slot for slot in clip_slots(config) if slot.name != "conv1.weight")]


def viclip_text_slots(config: TextConfig) -> list[Slot]:
    """ViCLIP's text encoder, names after the second of :data:`VICLIP_PREFIXES`."""
    width = config.width
    return [
        *tensor("token_embedding.weight", "token_embedding/embedding", (config.vocab_size, width)),
        *tensor("positional_embedding", "position_embedding", (config.context, width)),
        *_blocks("transformer.resblocks", "", config.layers, width, config.heads),
        *norm("ln_final", "ln_final", width, bias=True),
        *tensor("text_projection", "proj/kernel", (width, config.features)),
    ]


def _patch_embedding(name: str, width: int, patch: tuple[int, ...]) -> list[Slot]:
    """A convolution without bias; an axis of one frame is dropped."""
    shape = (width, 3, *patch)
    axes = (*range(2, len(shape)), 1, 0)
    kernel = (*patch[-2:], 3, width)
    return tensor(name, "patch_embedding/conv/kernel", shape, kernel, axes)


def _blocks(prefix: str, path: str, layers: int, width: int, heads: int) -> list[Slot]:
    """The blocks of a transformer in OpenAI's names; q, k and v are one tensor there."""
    path = f"{path}transformer/blocks"
    split = (heads, width // heads)
    qkv = (width, 3, *split)
    block = [
        *norm("ln_1", f"{path}/ln_1", width, bias=True),
        *tensor("attn.in_proj_weight", f"{path}/attn/qkv/kernel", (3 * width, width), qkv, (1, 0)),
        *tensor("attn.in_proj_bias", f"{path}/attn/qkv/bias", (3 * width,), (3, *split)),
        *linear("attn.out_proj", f"{path}/attn/out", split, (width,)),
        *norm("ln_2", f"{path}/ln_2", width, bias=True),
        *linear("mlp.c_fc", f"{path}/c_fc", (width,), (4 * width,)),
        *linear("mlp.c_proj", f"{path}/c_proj", (4 * width,), (width,)),
    ]
    return stack(prefix, layers, block)
