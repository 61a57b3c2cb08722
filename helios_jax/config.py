"""Configuration: frozen dataclasses, made from plain dictionaries or
``ml_collections.ConfigDict``s, strictly.

A preset in ``configs/`` is a ``ConfigDict`` with the sections of :class:`HeliosConfig`; a
checkpoint directory stores the same sections as JSON. Both become the dataclasses below through
:func:`from_dict`, where an unknown field or a value of another type is an error.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import ml_collections

from helios_jax.errors import HeliosError

Section = TypeVar("Section")


class ConfigError(HeliosError, ValueError):
    """A configuration that cannot be used; the message names the field and what it should be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The Helios transformer. Names and defaults are those of the released 14B checkpoints'
    ``transformer/config.json``.

    The last five say how it is computed and not what: what the backward pass computes again (None
      nothing; ``"blocks"`` all but the blocks'
    inputs; ``"products"`` all but these and the results of products with weights; ``"offload"`` as
    ``"blocks"``, with the inputs in host memory); whether the program has the blocks one by one,
    not in a loop, which takes longer to compile and spares a small model on a CPU the copying to
    and from the loop; which implementation of the fused operations and of attention runs, None
    being the best that serves; and, where weights have eight bits, whether activations do, too.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    eps: float = 1e-6
    rope_dim: tuple[int, int, int] = (44, 42, 42)
    rope_theta: float = 10000.0
    guidance_cross_attn: bool = True
    zero_history_timestep: bool = True
    is_amplify_history: bool = False
    history_scale_mode: Literal["per_head", "scalar"] = "per_head"
    remat: Literal["blocks", "products", "offload"] | None = None
    unroll: bool = False
    kernels: Literal["triton", "pallas", "xla"] | None = None
    attention: Literal["cudnn", "pallas", "by_head", "xla"] | None = None
    round_activations: bool = False

    def __post_init__(self):
        if self.patch_size[0] != 1:
            raise ConfigError(
                f"transformer.patch_size={self.patch_size} must begin with 1: patches span one latent frame"
            )
        if sum(self.rope_dim) != self.attention_head_dim or any(size % 2 for size in self.rope_dim):
            raise ConfigError(
                f"transformer.rope_dim={self.rope_dim} must be three even numbers that sum to attention_head_dim={self.attention_head_dim}"
            )

    @property
    def width(self) -> int:
        """D, the model width."""
        return self.num_attention_heads * self.attention_head_dim


RUNTIME_FIELDS = ("remat", "unroll", "kernels", "attention", "round_activations")
"""Those of :class:`TransformerConfig` that say how it is computed and not what."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The Wan 2.1 causal video VAE. Names and defaults are those of ``vae/config.json``."""

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    latents_std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip

    def __post_init__(self):
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ConfigError(
                f"vae.latents_mean and vae.latents_std need z_dim={self.z_dim} values each"
            )
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ConfigError("vae.temperal_downsample needs one value fewer than vae.dim_mult")

    @property
    def spatial_factor(self) -> int:
        """Pixels a latent cell spans in each direction of space."""
        return 2 ** len(self.temperal_downsample)

    @property
    def temporal_factor(self) -> int:
        """Frames a latent frame spans, save the first, which spans one."""
        return 2 ** sum(self.temperal_downsample)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The UMT5 encoder. Names and defaults are those of umt5-xxl's ``text_encoder/config.json``."""

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    max_sequence_length: int = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Noise schedule and solver. One stage is Helios-Base; three stages are the pyramid of
    Helios-Mid and Helios-Distilled.

    ``shift_tokens`` says whose grid sets the dynamic shift of a pyramid stage: ``"previous_stage"``
    (the latents before they are upsampled, as Diffusers does) or ``"own_stage"`` (after, as the
    original implementation does).
    """

    num_train_timesteps: int = 1000
    stages: int = 3
    stage_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
    gamma: float = 1 / 3
    shift: float = 1.0
    solver: Literal["unipc", "euler", "dmd", "dpmpp_2m"] = "unipc"
    use_dynamic_shifting: bool = True
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    shift_tokens: Literal["previous_stage", "own_stage"] = "previous_stage"
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    def __post_init__(self):
        if len(self.stage_range) != self.stages + 1:
            raise ConfigError(
                f"scheduler.stage_range needs {self.stages + 1} values for {self.stages} stages, got {len(self.stage_range)}"
            )
        if self.use_dynamic_shifting and self.shift != 1.0:
            raise ConfigError(
                "scheduler.shift must be 1.0 when scheduler.use_dynamic_shifting is on"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What a request asks for unless the caller says otherwise: size and length of the video,
    steps, guidance.

    Attributes:
      guidance_interval: least and greatest noise level (timestep / 1000) of the steps with
        guidance; the others follow the prompt alone, at half the cost (Kynkäänniemi et al. 2024).
        The reference guides them all.
    """

    height: int = 384
    width: int = 640
    num_frames: int = 132
    fps: int = 24
    steps: tuple[int, ...] = (20, 20, 20)
    guidance_scale: float = 5.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    cfg_zero_star: bool = False
    zero_init_steps: int = 0
    amplify_first_chunk: bool = False
    history_sizes: tuple[int, int, int] = (16, 2, 1)
    latent_frames_per_chunk: int = 9
    negative_prompt: str = ""

    def __post_init__(self):
        if not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise ConfigError(
                f"sample.guidance_interval={self.guidance_interval} must be two noise levels, 0 <= least <= greatest <= 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeliosConfig:
    """Everything needed to build and run one Helios checkpoint."""

    transformer: TransformerConfig = TransformerConfig()
    vae: VAEConfig = VAEConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    sample: SampleConfig = SampleConfig()

    def __post_init__(self):
        if self.transformer.text_dim != self.text_encoder.d_model:
            raise ConfigError(
                f"transformer.text_dim={self.transformer.text_dim} is not text_encoder.d_model={self.text_encoder.d_model}"
            )
        if self.transformer.in_channels != self.vae.z_dim:
            raise ConfigError(
                f"transformer.in_channels={self.transformer.in_channels} is not vae.z_dim={self.vae.z_dim}"
            )


def from_dict(
    section: type[Section], values: Mapping[str, Any] | ml_collections.ConfigDict, path: str = ""
) -> Section:
    """Build a configuration dataclass from a mapping; fields left out keep their defaults.

    Args:
      section: the dataclass, e.g. :class:`HeliosConfig`.
      values: a dict or ``ConfigDict``; lists are accepted where tuples are expected, integers where
        floats are.
      path: prefix for messages, e.g. ``"transformer"``.

    Raises:
      ConfigError: naming the first unknown or ill-typed field.
    """
    hints = typing.get_type_hints(section)
    fields = {}
    for name, value in values.items():
        where = f"{path}.{name}" if path else name
        if name not in hints:
            raise ConfigError(
                f"unknown configuration field {where!r}; known here: {', '.join(hints)}"
            )
        fields[name] = _coerce(hints[name], value, where)
    return section(**fields)


class Difference(NamedTuple):
    """A field whose value differs between two configurations; :data:`ABSENT` where one lacks it."""

    name: str
    there: Any
    here: Any


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
"""The value of a field that a configuration does not have."""


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], ignore: Collection[str] = ()
) -> list[Difference]:
    """Fields of two nested dictionaries that differ, by dotted names, in alphabetical order.

    Args:
      there, here: as :func:`to_dict` makes them; a list equals a tuple of the same items.
      ignore: dotted names of fields or of whole sections that may differ.
    """
    found = []
    for name in sorted(there.keys() | here.keys()):
        if name in ignore:
            continue
        ours = here.get(name, ABSENT)
        theirs = there.get(name, ABSENT)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            inner = [field[len(name) + 1 :] for field in ignore if field.startswith(f"{name}.")]
            for field in differences(theirs, ours, inner):
                found.append(field._replace(name=f"{name}.{field.name}"))
        elif _plain(theirs) != _plain(ours):
            found.append(Difference(name, theirs, ours))
    return found


def _plain(value: Any) -> Any:
    """A value with lists for tuples, as JSON has them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dictionary that :func:`from_dict` reads back, JSON-ready save that tuples stay
    tuples.
    """
    return dataclasses.asdict(config)


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """The ``ConfigDict`` of a configuration: locked and typed, so that
    ``--config.section.field=value`` is checked.
    """
    return ml_collections.ConfigDict(_open_names(to_dict(config)))


def _open_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dictionary where each None, which stands for a name that was not chosen, can be
    given one on a command line.
    """
    opened = {
        name: _open_names(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return {
        name: ml_collections.config_dict.placeholder(str) if value is None else value
        for name, value in opened.items()
    }


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type, or ConfigError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            return from_dict(hint, value, where)
    elif origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}={value!r} must be one of {', '.join(map(repr, args))}")
    elif origin is tuple:
        if isinstance(value, list | tuple):
            if args[-1] is not Ellipsis and len(value) != len(args):
                raise ConfigError(f"{where}={value!r} must have {len(args)} values")
            kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
            return tuple(
                _coerce(kind, item, f"{where}[{i}]")
                for i, (kind, item) in enumerate(zip(kinds, value))
            )
    elif origin in (typing.Union, types.UnionType):
        for kind in args:
            if value is None and kind is types.NoneType:
                return None
        return _coerce(next(kind for kind in args if kind is not types.NoneType), value, where)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(
        f"{where}={value!r} must be of type {getattr(hint, '__name__', hint)}, not {type(value).__name__}"
    )
