"""What a model's geometry asks of a video: whole chunks, sizes that divide, the same weights."""

import math
from collections.abc import Sequence
from typing import Any

from helios_jax.config import RUNTIME_FIELDS, HeliosConfig
from helios_jax.fields import differences, to_dict
from helios_jax.sampling.fields import RequestError


def frames_per_chunk(config: HeliosConfig) -> int:
    """Frames that a chunk of latents decodes to."""
    return 1 + config.vae.temporal_factor * (config.sample.latent_frames_per_chunk - 1)


def reference_frames(config: HeliosConfig, num_frames: int) -> int:
    """Frames that Diffusers returns when asked for ``num_frames``: whole chunks, cut to 4m + 1."""
    factor = config.vae.temporal_factor
    length = frames_per_chunk(config)
    whole = max(1, math.ceil(num_frames / length)) * length
    return (whole - 1) // factor * factor + 1


def check_model(there: HeliosConfig, here: HeliosConfig, what: str = "the request") -> None:
    """Refuse what belongs to a model of another geometry. How a model is computed and sampled may
    differ.

    Args:
      there: the configuration of ``what``.
      here: that of the model which is to serve it.
      what: for the message.

    Raises:
      RequestError: naming every field that differs.
    """
    runtime = [f"transformer.{name}" for name in RUNTIME_FIELDS]
    if found := differences(_geometry(there), _geometry(here), ignore=runtime):
        told = "; ".join(f"{name} is {theirs} there, {ours} here" for name, theirs, ours in found)
        raise RequestError(f"{what} is of another model: {told}")


def check_adapters(there: Sequence[str], here: Sequence[str], what: str) -> None:
    """Refuse what was made with other adapters than a model has.

    Args:
      there: the records of those of ``what``, in order.
      here: those of the model that is to serve it.
      what: for the message.

    Raises:
      RequestError: naming them.
    """
    if tuple(there) != tuple(here):
        theirs, ours = (", ".join(records) or "no adapter" for records in (there, here))
        raise RequestError(
            f"{what} was made with {theirs}, and this model has {ours}: give the same --lora, in "
            "the same order"
        )


def _geometry(config: HeliosConfig) -> dict[str, Any]:
    sections = to_dict(config)
    return {name: sections[name] for name in ("transformer", "vae", "text_encoder")}


def check_size(config: HeliosConfig, height: int, width: int) -> None:
    """Height and width must divide into the VAE's cells, halve at every stage, and divide into
    patches at the coarsest.
    """
    stages = config.scheduler.stages
    for name, size, patch in (
        ("height", height, config.transformer.patch_size[1]),
        ("width", width, config.transformer.patch_size[2]),
    ):
        multiple = config.vae.spatial_factor * patch * 2 ** (stages - 1)
        if size % multiple:
            nearest = max(multiple, round(size / multiple) * multiple)
            raise RequestError(
                f"{name}={size} must be a multiple of {multiple} for {stages} stage(s) of patches "
                f"of {patch}; the nearest is {nearest}"
            )
