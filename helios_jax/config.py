"""The configuration of a checkpoint: frozen dataclasses with a section for each part.

A preset in ``configs/`` is a ``ConfigDict`` with the sections of :class:`HeliosConfig`; a
checkpoint directory stores the same sections as JSON. Both become the dataclasses below through
:func:`~helios_jax.fields.from_dict`, where an unknown field, a value of another type or one out of
its range is an error.
"""

import dataclasses
from typing import Annotated, Literal

from helios_jax.fields import (
    ABSENT,
    Checked,
    ConfigError,
    Count,
    Difference,
    Finite,
    Natural,
    Positive,
    Range,
    Section,
    Share,
    differences,
    from_dict,
    to_config_dict,
    to_dict,
)

Solver = Literal["unipc", "euler", "dmd", "dpmpp_2m"]
"""Names of :data:`~helios_jax.diffusion.solvers.SOLVERS`."""

Layers = Annotated[int, Range(1, 1000)]
"""Of a model: a damaged file that says more would take all memory for their names alone."""

Frames = Annotated[int, Range(1, 10_000)]
"""Of latents, that are held at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(Checked):
    """The Helios transformer. Names and defaults are those of the released 14B checkpoints'
    ``transformer/config.json``; the last five fields say how it is computed and not what.

    Attributes:
      remat: what the backward pass computes again. None: nothing; "blocks": everything but the
        inputs of the blocks; "attention": everything but these and what self-attention gives (4.2
        GiB of the 14B model a clip); "products": everything but these and what attention and the
        products with weights give (43 GiB); "offload": as "blocks", with the inputs in host memory.
      unroll: compile the blocks one by one instead of a loop over them. It takes longer to compile,
        and spares a small model on a CPU the copies at the loop's border.
      kernels: implementation of the fused operations, and of the VAE's norms; None or "auto" takes
        the best that serves and that ``helios-jax doctor`` has not found wrong on this device.
      attention: implementation of attention; None takes the best that serves.
      round_activations: with 8-bit weights, whether activations are rounded to 8 bits too.
    """

    section = "transformer"

    patch_size: tuple[Count, Count, Count] = (1, 2, 2)
    num_attention_heads: Count = 40
    attention_head_dim: Count = 128
    in_channels: Count = 16
    out_channels: Count = 16
    text_dim: Count = 4096
    freq_dim: Count = 256
    ffn_dim: Count = 13824
    num_layers: Layers = 40
    eps: Positive = 1e-6
    rope_dim: tuple[Natural, Natural, Natural] = (44, 42, 42)
    rope_theta: Positive = 10000.0
    guidance_cross_attn: bool = True
    zero_history_timestep: bool = True
    is_amplify_history: bool = False
    history_scale_mode: Literal["per_head", "scalar"] = "per_head"
    remat: Literal["blocks", "attention", "products", "offload"] | None = None
    unroll: bool = False
    kernels: Literal["triton", "pallas", "xla", "auto"] | None = None
    attention: str | None = None
    round_activations: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size[0] != 1:
            raise ConfigError(
                f"transformer.patch_size={self.patch_size} must begin with 1: "
                "patches span one latent frame"
            )
        if sum(self.rope_dim) != self.attention_head_dim or any(size % 2 for size in self.rope_dim):
            raise ConfigError(
                f"transformer.rope_dim={self.rope_dim} must be three even numbers that sum to "
                f"attention_head_dim={self.attention_head_dim}"
            )

    @property
    def width(self) -> int:
        """D, the model width."""
        return self.num_attention_heads * self.attention_head_dim


RUNTIME_FIELDS = ("remat", "unroll", "kernels", "attention", "round_activations")
"""Those of :class:`TransformerConfig` that say how it is computed and not what."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig(Checked):
    """The Wan 2.1 causal video VAE. Names and defaults are those of ``vae/config.json``."""

    section = "vae"

    base_dim: Count = 96
    z_dim: Count = 16
    dim_mult: tuple[Count, ...] = (1, 2, 4, 4)
    num_res_blocks: Layers = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[Finite, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    latents_std: tuple[Positive, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ConfigError(
                f"vae.latents_mean and vae.latents_std need z_dim={self.z_dim} values each"
            )
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ConfigError("vae.temperal_downsample needs one value fewer than vae.dim_mult")

    @property
    def spatial_factor(self) -> int:
        """Pixels that a latent cell spans in each direction of space."""
        return 2 ** len(self.temperal_downsample)

    @property
    def temporal_factor(self) -> int:
        """Frames that a latent frame spans, save the first, which spans one."""
        return 2 ** sum(self.temperal_downsample)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Checked):
    """The UMT5 encoder. Names and defaults are those of umt5-xxl's ``text_encoder/config.json``."""

    section = "text_encoder"

    vocab_size: Count = 256384
    d_model: Count = 4096
    d_kv: Count = 64
    d_ff: Count = 10240
    num_layers: Layers = 24
    num_heads: Count = 64
    relative_attention_num_buckets: Annotated[int, Range(4, 10_000)] = 32
    relative_attention_max_distance: Count = 128
    layer_norm_epsilon: Positive = 1e-6
    max_sequence_length: Annotated[int, Range(1, 100_000)] = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig(Checked):
    """Noise schedule and solver. One stage is Helios-Base; three stages are the pyramid of
    Helios-Mid and Helios-Distilled.

    Attributes:
      stage_range: bounds of the stages, as shares of the noise levels, rising from 0 to 1.
      gamma: correlation of renoising inside a block of 2 x 2 cells; 1/3 at most.
      solver: a key of :data:`~helios_jax.diffusion.solvers.SOLVERS`.
      shift_tokens: the grid whose tokens set the dynamic shift of a pyramid stage:
        "previous_stage" (the latents before they are upsampled, as in Diffusers) or "own_stage"
        (after, as in the original implementation).
    """

    section = "scheduler"

    num_train_timesteps: Annotated[int, Range(2, 1_000_000)] = 1000
    stages: Annotated[int, Range(1, 16)] = 3
    stage_range: tuple[Share, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
    gamma: Annotated[float, Range(above=0)] = 1 / 3
    shift: Annotated[float, Range(above=0, greatest=1000)] = 1.0
    solver: Solver = "unipc"
    use_dynamic_shifting: bool = True
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    shift_tokens: Literal["previous_stage", "own_stage"] = "previous_stage"
    base_image_seq_len: Count = 256
    max_image_seq_len: Count = 4096
    base_shift: Annotated[float, Range(-20, 20)] = 0.5
    max_shift: Annotated[float, Range(-20, 20)] = 1.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.stage_range) != self.stages + 1:
            raise ConfigError(
                f"scheduler.stage_range needs {self.stages + 1} values for {self.stages} stages, "
                f"got {len(self.stage_range)}"
            )
        if not all(low < high for low, high in zip(self.stage_range, self.stage_range[1:])):
            raise ConfigError(f"scheduler.stage_range={self.stage_range} must rise")
        if self.max_image_seq_len == self.base_image_seq_len:
            raise ConfigError(
                f"scheduler.max_image_seq_len={self.max_image_seq_len} must differ from "
                "base_image_seq_len: the dynamic shift is a line through both"
            )
        if self.use_dynamic_shifting and self.shift != 1.0:
            raise ConfigError(
                "scheduler.shift must be 1.0 when scheduler.use_dynamic_shifting is on"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig(Checked):
    """Defaults of a request: size and length of the video, steps, guidance.

    Attributes:
      fps: frames per second of the file.
      steps: solver steps of each stage, coarsest first.
      guidance_scale: weight of the prompt against the negative prompt; 1 or less is no guidance.
      guidance_interval: least and greatest noise level (timestep / 1000) of the steps with
        guidance; the others follow the prompt alone, at half the cost (Kynkäänniemi et al. 2024).
        Diffusers guides every step.
      zero_init_steps: first steps whose velocity is taken to be zero (CFG-Zero*).
      history_sizes: latent frames of the long, mid and newest segments of the history window.
    """

    section = "sample"

    height: Count = 384
    width: Count = 640
    num_frames: Count = 132
    fps: Count = 24
    steps: tuple[Annotated[int, Range(1, 10_000)], ...] = (20, 20, 20)
    guidance_scale: Annotated[float, Range(0, 1000)] = 5.0
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    cfg_zero_star: bool = False
    zero_init_steps: Natural = 0
    amplify_first_chunk: bool = False
    history_sizes: tuple[Frames, Frames, Frames] = (16, 2, 1)
    latent_frames_per_chunk: Frames = 9
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps:
            raise ConfigError("sample.steps=() must have a number for each stage")
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ConfigError(
                f"sample.guidance_interval={self.guidance_interval} must be two noise levels, "
                "0 <= least <= greatest <= 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeliosConfig(Checked):
    """Everything needed to build and run one Helios checkpoint."""

    transformer: TransformerConfig = TransformerConfig()
    vae: VAEConfig = VAEConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transformer.text_dim != self.text_encoder.d_model:
            raise ConfigError(
                f"transformer.text_dim={self.transformer.text_dim} is not "
                f"text_encoder.d_model={self.text_encoder.d_model}"
            )
        if self.transformer.in_channels != self.vae.z_dim:
            raise ConfigError(
                f"transformer.in_channels={self.transformer.in_channels} is not "
                f"vae.z_dim={self.vae.z_dim}"
            )


__all__ = [
    "ABSENT",
    "RUNTIME_FIELDS",
    "ConfigError",
    "Difference",
    "HeliosConfig",
    "SampleConfig",
    "SchedulerConfig",
    "Section",
    "Solver",
    "TextEncoderConfig",
    "TransformerConfig",
    "VAEConfig",
    "differences",
    "from_dict",
    "to_config_dict",
    "to_dict",
]
