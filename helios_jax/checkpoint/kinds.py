"""Kinds of models that look like Wan or Helios and are another thing, and how they are told.

Each is known by the names of its tensors (Wan's own or Diffusers'), by the channels of its patch
embedding, by its pipeline's class, or by how its file is laid out. None of them is converted: the
rows say what they are, so that a refusal can.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable

ADVICE = "Helios starts from text-to-video, Wan 2.1 T2V (1.3B or 14B): give that as --source"
"""What can be done with most of them."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of transformer that Helios does not start from.

    Attributes:
      name: what people call it.
      tensors: pattern of names that only such models have.
      channels: input channels of its patch embedding.
    """

    name: str
    tensors: str = r"$^"
    channels: tuple[int, ...] = ()


KINDS = (
    Kind("Wan VACE (video editing)", r"^vace_"),
    Kind("Wan-Animate", r"^(motion_encoder|face_adapter|pose_patch_embedding)\."),
    Kind("Wan S2V (speech to video)", r"^(casual_audio_encoder|audio_injector|cond_encoder)\."),
    Kind("Wan Fun-Camera (camera control)", r"^control_adapter\."),
    Kind("Wan Fun-Control", r"^(ref_conv|control_patch_embedding)\.", (52,)),
    Kind("Wan FLF2V (first and last frame to video)", r"(^img_emb\.emb_pos|embedder\.pos_embed)$"),
    Kind("SkyReels-V2 with frame rates", r"^(condition_embedder\.)?fps_(embedding|projection)\b"),
    Kind(
        "Wan I2V (image to video)", r"^img_emb\.|image_embedder|\.[kv]_img\.|add_[kv]_proj", (36,)
    ),
    Kind("Wan 2.2 TI2V-5B (VAE of 48 channels)", channels=(48,)),
)
"""The first whose sign is there."""

PIPELINES = {
    "WanImageToVideoPipeline": "Wan I2V (image to video)",
    "WanVACEPipeline": "Wan VACE (video editing)",
    "WanAnimatePipeline": "Wan-Animate",
    "WanFunControlPipeline": "Wan Fun-Control",
    "SkyReelsV2Pipeline": "SkyReels-V2",
    "SkyReelsV2ImageToVideoPipeline": "SkyReels-V2 I2V (image to video)",
    "SkyReelsV2DiffusionForcingPipeline": "SkyReels-V2 with diffusion forcing",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": "SkyReels-V2 with diffusion forcing",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": "SkyReels-V2 with diffusion forcing",
    "WanSpeechToVideoPipeline": "Wan S2V (speech to video)",
    "WanFunInpaintPipeline": "Wan Fun-Inpaint",
    "WanFunCameraControlPipeline": "Wan Fun-Camera (camera control)",
    "WanPhantomPipeline": "Phantom-Wan (subjects to video)",
    "SkyReelsV2VideoToVideoPipeline": "SkyReels-V2",
    "WanDMDPipeline": "FastWan, a few-step Wan whose sampler is not Helios'",
    "WanCausalDMDPipeline": "a causal Wan (Self-Forcing)",
}
"""Classes of pipelines that are read by name only."""

MODEL_TYPES = {
    "i2v": "Wan I2V (image to video)",
    "ti2v": "Wan 2.2 TI2V-5B (VAE of 48 channels)",
    "flf2v": "Wan FLF2V (first and last frame to video)",
    "vace": "Wan VACE (video editing)",
    "s2v": "Wan S2V (speech to video)",
    "animate": "Wan-Animate",
    "control": "Wan Fun-Control",
    "camera_control": "Wan Fun-Camera (camera control)",
    "phantom": "Phantom-Wan (subjects to video)",
}
"""``model_type`` of original configurations that is not ``"t2v"``."""

WRAPPED = r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\."
"""What libraries of training put between the parts of a tensor's name, anywhere."""

CAUSAL = "causal Wan (Self-Forcing, CausVid or the like)"
CAUSAL_KEYS = ("generator", "generator_ema")
"""Entries of the dictionaries in which such models are saved."""

GGUF_ADVICE = (
    "whose packed weights are not read: take the safetensors of the same model (bf16, fp16 or fp8)"
)

ADAPTER = (
    r"\.(lora_(A|B|up|down)|lora_magnitude_vector|lokr_w[12]|hada_w[12]_[ab]|dora_scale"
    r"|diff(_[bm])?)\b"
)
"""Tensors that only adapters have."""

ADAPTER_ADVICE = "Those are LoRA weights: give the base as --source and this as --lora"

PACKED = (
    ("bitsandbytes", r"\.(absmax|quant_map|quant_state\b.*|SCB)$"),
    ("GPTQ, AWQ or SVDQuant", r"\.(qweight|qzeros|wscales|smooth_factor)$"),
)
"""Weights packed below eight bits, which are not read."""


def kind_of(names: Iterable[str], channels: int | None = None) -> str | None:
    """The kind of a transformer that Helios does not start from; None for Wan T2V and Helios.

    Args:
      names: of its tensors, without a file's prefix.
      channels: input channels of its patch embedding.
    """
    names = list(names)
    for kind in KINDS:
        if channels in kind.channels or any(re.search(kind.tensors, name) for name in names):
            return kind.name
    return None


def unwrapped(name: str) -> str:
    """The name of a tensor without what libraries of training put into it."""
    return re.sub(WRAPPED, "", name)


def packed_as(names: Collection[str]) -> str | None:
    """The library that packed quantised weights, by its tensors' names."""
    for library, pattern in PACKED:
        if any(re.search(pattern, name) for name in names):
            return library
    return None


def is_adapter(names: Collection[str]) -> bool:
    """Whether tensors are those of an adapter."""
    return any(re.search(ADAPTER, name) for name in names)
