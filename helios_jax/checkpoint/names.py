"""The name tables: every tensor of the transformer, the VAE and the text encoder, in the names of
Diffusers and Transformers and in ours.

Each table is a function of the component's configuration, so it also says which tensors and which
shapes a checkpoint must have.
"""

import re

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.layout import Slot, conv, linear, norm, stack, tensor
from helios_jax.config import HeliosConfig, TextEncoderConfig, TransformerConfig, VAEConfig

COMPONENTS = ("transformer", "vae", "text_encoder")


def component_slots(config: HeliosConfig, component: str) -> list[Slot]:
    """The name table of one of :data:`COMPONENTS`.

    Raises:
      CheckpointError: if there is no such component.
    """
    if component == "transformer":
        return transformer_slots(config.transformer)
    if component == "vae":
        return vae_slots(config.vae)
    if component == "text_encoder":
        return text_encoder_slots(config.text_encoder)
    raise CheckpointError(f"unknown component {component!r}; there are {', '.join(COMPONENTS)}")


def transformer_slots(config: TransformerConfig) -> list[Slot]:
    """``HeliosTransformer3DModel``: 21 tensors and 27 a block (28 with ``history_key_scale``)."""
    D = config.width
    F = config.ffn_dim
    C = config.in_channels
    heads = (config.num_attention_heads, config.attention_head_dim)
    patch = config.patch_size
    embedder = "condition_embedder"

    def attention(name: str, joined: dict[str, tuple[str, tuple[int, int] | None]]) -> list[Slot]:
        path = f"blocks/{name}"
        projections = []
        for torch, (ours, part) in joined.items():
            projections += linear(f"{name}.{torch}", f"{path}/{ours}", (D,), heads, part)
        return [
            *projections,
            *linear(f"{name}.to_out.0", f"{path}/out", heads, (D,)),
            *norm(f"{name}.norm_q", f"{path}/norm_q", D),
            *norm(f"{name}.norm_k", f"{path}/norm_k", D),
        ]

    block = [
        *tensor("scale_shift_table", "blocks/scale_shift_table", (1, 6, D), (6, D)),
        *attention(
            "attn1", {"to_q": ("qkv", (0, 3)), "to_k": ("qkv", (1, 3)), "to_v": ("qkv", (2, 3))}
        ),
        *attention("attn2", {"to_q": ("q", None), "to_k": ("kv", (0, 2)), "to_v": ("kv", (1, 2))}),
        *norm("norm2", "blocks/norm2", D, bias=True),
        *linear("ffn.net.0.proj", "blocks/ffn/up", (D,), (F,)),
        *linear("ffn.net.2", "blocks/ffn/down", (F,), (D,)),
    ]
    if config.is_amplify_history:
        scales = config.num_attention_heads if config.history_scale_mode == "per_head" else 1
        block += tensor("attn1.history_key_scale", "blocks/attn1/history_key_scale", (scales,))
    return [
        *conv("patch_embedding", "patch_embedding", D, C, *patch),
        *conv("patch_short", "patch_short", D, C, *patch),
        *conv("patch_mid", "patch_mid", D, C, *(2 * size for size in patch)),
        *conv("patch_long", "patch_long", D, C, *(4 * size for size in patch)),
        *linear(
            f"{embedder}.time_embedder.linear_1", "time_embedder/linear_1", (config.freq_dim,), (D,)
        ),
        *linear(f"{embedder}.time_embedder.linear_2", "time_embedder/linear_2", (D,), (D,)),
        *linear(f"{embedder}.time_proj", "time_proj", (D,), (6, D)),
        *linear(
            f"{embedder}.text_embedder.linear_1", "text_embedder/linear_1", (config.text_dim,), (D,)
        ),
        *linear(f"{embedder}.text_embedder.linear_2", "text_embedder/linear_2", (D,), (D,)),
        *stack("blocks", config.num_layers, block),
        *tensor("norm_out.scale_shift_table", "norm_out/scale_shift_table", (1, 2, D), (2, D)),
        *linear(
            "proj_out", "proj_out", (D,), (patch[0] * patch[1] * patch[2] * config.out_channels,)
        ),
    ]


def vae_slots(config: VAEConfig) -> list[Slot]:
    """``AutoencoderKLWan``, Wan 2.1. Our path is the torch name with list indices joined on:
    ``resnets.0.conv1`` is ``resnets_0/conv1``.
    """
    stages = config.dim_mult
    latent = config.z_dim

    def convolution(name: str, *shape: int) -> list[Slot]:
        return conv(name, _vae_path(name), *shape)

    def gamma(name: str, width: int, ones: int = 3) -> list[Slot]:
        return tensor(f"{name}.gamma", f"{_vae_path(name)}/gamma", (width, *[1] * ones), (width,))

    def residual(name: str, ins: int, outs: int) -> list[Slot]:
        shortcut = convolution(f"{name}.conv_shortcut", outs, ins, 1, 1, 1) if ins != outs else []
        return [
            *gamma(f"{name}.norm1", ins),
            *convolution(f"{name}.conv1", outs, ins, 3, 3, 3),
            *gamma(f"{name}.norm2", outs),
            *convolution(f"{name}.conv2", outs, outs, 3, 3, 3),
            *shortcut,
        ]

    def middle(name: str, width: int) -> list[Slot]:
        return [
            *residual(f"{name}.resnets.0", width, width),
            *gamma(f"{name}.attentions.0.norm", width, ones=2),
            *convolution(f"{name}.attentions.0.to_qkv", 3 * width, width, 1, 1),
            *convolution(f"{name}.attentions.0.proj", width, width, 1, 1),
            *residual(f"{name}.resnets.1", width, width),
        ]

    def resample(name: str, ins: int, outs: int, time_outs: int | None) -> list[Slot]:
        time = convolution(f"{name}.time_conv", time_outs, ins, 3, 1, 1) if time_outs else []
        return convolution(f"{name}.resample.1", outs, ins, 3, 3) + time

    widths = [config.base_dim * factor for factor in stages]
    down = []
    width = config.base_dim
    blocks = 0
    for stage, outs in enumerate(widths):
        for _ in range(config.num_res_blocks):
            down += residual(f"encoder.down_blocks.{blocks}", width, outs)
            width = outs
            blocks += 1
        if stage < len(stages) - 1:
            time_outs = width if config.temperal_downsample[stage] else None
            down += resample(f"encoder.down_blocks.{blocks}", width, width, time_outs)
            blocks += 1

    up = []
    width = widths[-1]
    for stage, outs in enumerate(reversed(widths)):
        name = f"decoder.up_blocks.{stage}"
        for resnet in range(config.num_res_blocks + 1):
            up += residual(f"{name}.resnets.{resnet}", width, outs)
            width = outs
        if stage < len(stages) - 1:
            doubled = 2 * width if config.temperal_downsample[-1 - stage] else None
            up += resample(f"{name}.upsamplers.0", width, width // 2, doubled)
            width //= 2

    return [
        *convolution("encoder.conv_in", config.base_dim, 3, 3, 3, 3),
        *down,
        *middle("encoder.mid_block", widths[-1]),
        *gamma("encoder.norm_out", widths[-1]),
        *convolution("encoder.conv_out", 2 * latent, widths[-1], 3, 3, 3),
        *convolution("quant_conv", 2 * latent, 2 * latent, 1, 1, 1),
        *convolution("post_quant_conv", latent, latent, 1, 1, 1),
        *convolution("decoder.conv_in", widths[-1], latent, 3, 3, 3),
        *middle("decoder.mid_block", widths[-1]),
        *up,
        *gamma("decoder.norm_out", width),
        *convolution("decoder.conv_out", 3, width, 3, 3, 3),
    ]


def _vae_path(name: str) -> str:
    # Index 0 of `resample` is the parameter-free upsampling or padding, so its index 1 says
    # nothing.
    return re.sub(r"\.(\d+)", r"_\1", name.replace(".resample.1", ".resample")).replace(".", "/")


def text_encoder_slots(config: TextEncoderConfig) -> list[Slot]:
    """``UMT5EncoderModel``: the embedding, ten tensors a layer, the final norm."""
    D = config.d_model
    F = config.d_ff
    heads = (config.num_heads, config.d_kv)
    attention = "layer.0.SelfAttention"
    ffn = "layer.1.DenseReluDense"
    bias = "relative_attention_bias"
    layer = [
        *linear(f"{attention}.q", "blocks/attention/qkv", (D,), heads, (0, 3), bias=False),
        *linear(f"{attention}.k", "blocks/attention/qkv", (D,), heads, (1, 3), bias=False),
        *linear(f"{attention}.v", "blocks/attention/qkv", (D,), heads, (2, 3), bias=False),
        *linear(f"{attention}.o", "blocks/attention/out", heads, (D,), bias=False),
        *tensor(
            f"{attention}.{bias}.weight",
            f"blocks/attention/{bias}/embedding",
            (config.relative_attention_num_buckets, heads[0]),
        ),
        *norm("layer.0.layer_norm", "blocks/attention_norm", D),
        *linear(f"{ffn}.wi_0", "blocks/ffn/wi_0", (D,), (F,), bias=False),
        *linear(f"{ffn}.wi_1", "blocks/ffn/wi_1", (D,), (F,), bias=False),
        *linear(f"{ffn}.wo", "blocks/ffn/wo", (F,), (D,), bias=False),
        *norm("layer.1.layer_norm", "blocks/ffn_norm", D),
    ]
    return [
        *tensor("shared.weight", "token_embedding/embedding", (config.vocab_size, D)),
        *stack("encoder.block", config.num_layers, layer),
        *norm("encoder.final_layer_norm", "final_norm", D),
    ]
