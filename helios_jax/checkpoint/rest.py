"""What a transformer runs with: VAE, text encoder, tokenizer, and how it is sampled.

It comes from a whole pipeline's folder, an original Wan folder or a converted checkpoint.
"""

import dataclasses
from pathlib import Path

from helios_jax.checkpoint.diffusers_config import (
    BASE_SCHEDULER,
    read_scheduler,
    read_text_encoder,
    read_transformer_config,
    read_vae,
    sample_defaults,
)
from helios_jax.checkpoint.directory import TOKENIZER, open_checkpoint
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.layouts import layout_of
from helios_jax.checkpoint.original import (
    WAN_FILES,
    original_text_encoder,
    original_transformer_config,
    original_vae,
)
from helios_jax.checkpoint.pipeline_index import HELIOS, read_index
from helios_jax.checkpoint.safetensors_files import TorchTensor, read_folder
from helios_jax.checkpoint.sampling_file import read_sampling
from helios_jax.checkpoint.stored import torch_tensors
from helios_jax.config import (
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)

REST = ("vae", "text_encoder")


@dataclasses.dataclass(frozen=True)
class Rest:
    """What a transformer runs with.

    Attributes:
      vae: the VAE's configuration.
      text_encoder: the text encoder's.
      tensors: of both.
      tokenizer: its folder.
      scheduler: how it is sampled; None if the place has a Wan's sampler.
      sample: the defaults of a request.
    """

    vae: VAEConfig
    text_encoder: TextEncoderConfig
    tensors: dict[str, dict[str, TorchTensor]]
    tokenizer: Path
    scheduler: SchedulerConfig | None
    sample: SampleConfig | None


def read_rest(path: Path) -> Rest:
    """What a transformer runs with, from a whole pipeline, an original Wan folder or a converted
    checkpoint.

    Raises:
      CheckpointError: if it is none of these, or lacks a part.
    """
    layout = layout_of(path)
    if layout == "pipeline":
        return _rest_of_pipeline(path)
    if layout == "original":
        return _rest_of_original(path)
    if layout == "checkpoint":
        return _rest_of_checkpoint(path)
    raise CheckpointError(
        f"{path} does not hold the rest of a pipeline (VAE, text encoder, tokenizer): give a "
        "Diffusers folder, an original Wan 2.1 folder or a helios-jax checkpoint"
    )


def transformer_config_beside(path: Path) -> TransformerConfig | None:
    """The configuration of the transformer that belongs to a rest, if there is one."""
    layout = layout_of(path)
    if layout == "checkpoint":
        return open_checkpoint(path).config.transformer
    if layout == "original" and (path / "config.json").exists():
        return original_transformer_config(path / "config.json")
    if layout == "pipeline" and (path / "transformer/config.json").exists():
        return read_transformer_config(path / "transformer/config.json")
    return None


def sampling_of(path: Path) -> tuple[SchedulerConfig, SampleConfig] | None:
    """How a Diffusers folder of Helios says that it is sampled; None for any other place."""
    if layout_of(path) != "pipeline":
        return None
    index = read_index(path)
    if index.get("_class_name") not in HELIOS:
        return None
    scheduler = read_scheduler(path / "scheduler/scheduler_config.json")
    return read_sampling(path, scheduler, sample_defaults(scheduler, index))


def wan_sampling() -> tuple[SchedulerConfig, SampleConfig]:
    """How a model that starts from Wan is sampled: as Helios-Base."""
    return BASE_SCHEDULER, sample_defaults(BASE_SCHEDULER, {})


def _rest_of_pipeline(folder: Path) -> Rest:
    if absent := [name for name in (*REST, TOKENIZER) if not (folder / name).is_dir()]:
        raise CheckpointError(
            f"{folder} has no {', '.join(absent)}: give the folder of a whole pipeline, or the "
            "rest of it with --rest"
        )
    scheduler, sample = sampling_of(folder) or (None, None)
    return Rest(
        vae=read_vae(folder / "vae/config.json"),
        text_encoder=read_text_encoder(folder / "text_encoder/config.json"),
        tensors={component: read_folder(folder / component) for component in REST},
        tokenizer=folder / TOKENIZER,
        scheduler=scheduler,
        sample=sample,
    )


def _rest_of_original(folder: Path) -> Rest:
    if absent := [name for name in WAN_FILES.values() if not (folder / name).exists()]:
        raise CheckpointError(
            f"{folder} looks like an original Wan 2.1 folder, but has no {', '.join(absent)}; the "
            "rest of another folder can be given with --rest"
        )
    vae, vae_tensors = original_vae(folder)
    text_encoder, text_tensors = original_text_encoder(folder)
    tensors = {"vae": vae_tensors, "text_encoder": text_tensors}
    return Rest(vae, text_encoder, tensors, folder / WAN_FILES["tokenizer"], None, None)


def _rest_of_checkpoint(folder: Path) -> Rest:
    opened = open_checkpoint(folder)
    files = opened.files
    if absent := [name for name in (*REST, TOKENIZER) if not files.under(name)]:
        raise CheckpointError(f"{folder} has no {', '.join(absent)}, which --rest should give")
    for component in REST:
        files.check(files.under(component))
    config = opened.config
    return Rest(
        vae=config.vae,
        text_encoder=config.text_encoder,
        tensors={component: dict(torch_tensors(opened, component)) for component in REST},
        tokenizer=files.path(TOKENIZER),
        scheduler=config.scheduler,
        sample=config.sample,
    )
