"""The JSON configurations of a Diffusers folder, read into :class:`HeliosConfig` and written from
it.

A key is either a field of ours by the same name, or one that
:mod:`helios_jax.checkpoint.options` knows, or unknown: an unknown option that is switched on is an
error, since it may change the model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from helios_jax.checkpoint import wan
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.files import read_json, write_json
from helios_jax.checkpoint.options import DMD_ONLY_KEYS, FIXED, OUR_OWN, check_option
from helios_jax.checkpoint.pipeline_index import PIPELINE
from helios_jax.config import (
    ConfigError,
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
    from_dict,
    to_dict,
)
from helios_jax.models.tokenizer import SPECIAL_TOKENS

Section = TypeVar(
    "Section",
    HeliosConfig,
    TransformerConfig,
    VAEConfig,
    TextEncoderConfig,
    SchedulerConfig,
)

UMT5_DEFAULTS = {
    "vocab_size": 250112,
    "d_model": 512,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
}
"""Where the defaults of ``UMT5Config``, for absent keys, are not umt5-xxl's."""

SCHEDULER_DEFAULTS = {"use_dynamic_shifting": False}
"""Where the defaults of both scheduler classes, for absent keys, are not ours."""

PIPELINE_READS = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
"""Fields that Diffusers' pipelines look up in the scheduler's configuration, but its class does not
know: written only if unusual.
"""

HISTORY_FIELDS = (
    "rope_dim",
    "guidance_cross_attn",
    "zero_history_timestep",
    "is_amplify_history",
    "history_scale_mode",
    "has_multi_term_memory_patch",
)
"""Keys of Helios' transformer that Wan's does not have."""

BASE_SCHEDULER = SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
"""The schedule of Helios-Base, which a model started from Wan has."""


def read_transformer_config(path: Path) -> TransformerConfig:
    """The transformer that a ``transformer/config.json`` of Helios or Wan describes.

    Raises:
      CheckpointError: if the file is missing, or asks for something that is not supported, naming
        the key.
    """
    values = read_json(path)
    head_dim = values.get("attention_head_dim", TransformerConfig.attention_head_dim)
    if type(head_dim) is not int:
        raise CheckpointError(f"{path}: attention_head_dim={head_dim!r} is no integer")
    return _section(path, TransformerConfig, values, {"rope_dim": wan.rope_dim(head_dim)})


def read_text_encoder(path: Path) -> TextEncoderConfig:
    """The text encoder that a ``text_encoder/config.json`` describes.

    Raises:
      CheckpointError: as :func:`read_transformer_config`.
    """
    return _section(path, TextEncoderConfig, read_json(path), UMT5_DEFAULTS)


def sample_defaults(scheduler: SchedulerConfig, pipeline: Mapping[str, Any]) -> SampleConfig:
    """The settings the authors recommend for each kind of model: Distilled (``dmd``), Base (one
    stage), Mid (a pyramid).
    """
    if scheduler.solver == "dmd":
        return SampleConfig(
            num_frames=240,
            steps=(2,) * scheduler.stages,
            guidance_scale=1.0,
            amplify_first_chunk=True,
        )
    if scheduler.stages == 1:
        return SampleConfig(num_frames=99, steps=(50,))
    zero_star = bool(pipeline.get("is_cfg_zero_star", True))
    return SampleConfig(
        num_frames=99,
        steps=(20,) * scheduler.stages,
        cfg_zero_star=zero_star,
        zero_init_steps=2 if zero_star else 0,
    )


def write_configs(folder: Path, config: HeliosConfig) -> None:
    """Write ``model_index.json`` and the components' configurations, for Diffusers and Transformers
    to load; the tokenizer is there already.
    """
    distilled = config.scheduler.solver == "dmd"
    pipeline: dict[str, Any] = {"_class_name": "HeliosPipeline"}
    if distilled or config.scheduler.stages > 1:
        pipeline = {
            "_class_name": "HeliosPyramidPipeline",
            "is_cfg_zero_star": config.sample.cfg_zero_star,
            "is_distilled": distilled,
        }
    fixed = {
        key: value
        for key, value in FIXED[SchedulerConfig].items()
        if not distilled or key in DMD_ONLY_KEYS
    }
    solver = {} if distilled else {"scheduler_type": config.scheduler.solver}
    schedule = _ours(config.scheduler)
    for name in PIPELINE_READS:
        if schedule[name] == getattr(SchedulerConfig, name):
            del schedule[name]
    scheduler = {
        "_class_name": "HeliosDMDScheduler" if distilled else "HeliosScheduler",
        **schedule,
        **fixed,
        **solver,
    }
    _write(
        folder,
        config,
        pipeline,
        scheduler,
        {"_class_name": "HeliosTransformer3DModel", **_written(config.transformer)},
    )


def write_wan_configs(folder: Path, config: HeliosConfig) -> None:
    """The same for the pipeline of Wan 2.1, whose transformer has no history."""
    transformer = {
        name: value
        for name, value in _written(config.transformer).items()
        if name not in HISTORY_FIELDS
    }
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    }
    _write(
        folder,
        config,
        {"_class_name": "WanPipeline"},
        scheduler,
        {"_class_name": "WanTransformer3DModel", **transformer},
    )


def _write(
    folder: Path,
    config: HeliosConfig,
    pipeline: dict[str, Any],
    scheduler: dict[str, Any],
    transformer: dict[str, Any],
) -> None:
    """Write the files of a pipeline: those given, and what both kinds have in common."""
    components = {
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", _tokenizer_class(folder / "tokenizer/tokenizer_config.json")],
        "transformer": ["diffusers", transformer["_class_name"]],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    factors = {
        "scale_factor_temporal": config.vae.temporal_factor,
        "scale_factor_spatial": config.vae.spatial_factor,
    }
    files = {
        PIPELINE: pipeline | components,
        "transformer/config.json": transformer,
        "vae/config.json": {"_class_name": "AutoencoderKLWan", **_written(config.vae), **factors},
        "text_encoder/config.json": {
            "architectures": ["UMT5EncoderModel"],
            **_written(config.text_encoder),
        },
        "scheduler/scheduler_config.json": scheduler,
    }
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, values)


def _tokenizer_class(path: Path) -> str:
    """The class that a tokenizer's configuration names. Where there is no configuration, write one
    with which ``tokenizer.json`` is read as it stands.
    """
    if not path.is_file():
        write_json(path, _TOKENIZER)
    return str(read_json(path).get("tokenizer_class", "T5TokenizerFast"))


_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    **dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL_TOKENS)),
}


def _section(
    path: Path, section: type[Section], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Section:
    fields = section.__dataclass_fields__.keys() - {*OUR_OWN[section]}
    kept = dict(defaults)
    for key, value in values.items():
        if key in fields:
            kept[key] = value
        elif key in FIXED[section]:
            if value != FIXED[section][key]:
                raise CheckpointError(
                    f"{path}: {key}={value!r} is not supported, only {FIXED[section][key]!r} is"
                )
        else:
            check_option(path, section, key, value)
    return checked(path, from_dict, section, kept)


def read_vae(path: Path) -> VAEConfig:
    """The VAE that a ``vae/config.json`` describes.

    Raises:
      CheckpointError: as :func:`read_transformer_config`.
    """
    values = read_json(path)
    decoder = values.pop("decoder_base_dim", None)
    stated = {name: values.pop(f"scale_factor_{name}", None) for name in ("temporal", "spatial")}
    config = _section(path, VAEConfig, values, {})
    if decoder not in (None, config.base_dim):
        raise CheckpointError(
            f"{path}: decoder_base_dim={decoder} is not supported, only that of the encoder, "
            f"{config.base_dim}, is"
        )
    factors = {"temporal": config.temporal_factor, "spatial": config.spatial_factor}
    for name, factor in factors.items():
        if stated[name] not in (None, factor):
            raise CheckpointError(
                f"{path}: scale_factor_{name}={stated[name]} does not fit its blocks, which give "
                f"{factor}"
            )
    return config


def read_scheduler(path: Path) -> SchedulerConfig:
    """The schedule and the solver that a ``scheduler_config.json`` of Helios describes.

    Raises:
      CheckpointError: as :func:`read_transformer_config`, or if it is no scheduler of Helios.
    """
    values = read_json(path)
    kind = values.get("_class_name")
    if kind == "HeliosDMDScheduler":
        own = {"solver": "dmd", "time_shift_type": "linear"}
    elif kind == "HeliosScheduler":
        own = {"solver": values.get("scheduler_type", "unipc"), "time_shift_type": "exponential"}
    else:
        raise CheckpointError(
            f"{path}: _class_name={kind!r} is not a Helios scheduler (HeliosScheduler or "
            "HeliosDMDScheduler)"
        )
    return _section(path, SchedulerConfig, values, SCHEDULER_DEFAULTS | own)


def checked(where: Path, make: Callable[..., Section], *args: Any, **kwargs: Any) -> Section:
    """``make(*args, **kwargs)``; its ConfigError becomes a CheckpointError that says where."""
    try:
        return make(*args, **kwargs)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _ours(section: Any) -> dict[str, Any]:
    """The fields of a section that PyTorch's configuration has too."""
    return {
        name: value
        for name, value in to_dict(section).items()
        if name not in OUR_OWN[type(section)]
    }


def _written(section: Any) -> dict[str, Any]:
    return {**_ours(section), **FIXED[type(section)]}
