"""Reading PyTorch weights whole: the transformer that was chosen, completed by its rest, checked
against the name tables, with what was trained on it merged in.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helios_jax.checkpoint import kinds, wan
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.describe import describe
from helios_jax.checkpoint.diffusers_config import checked
from helios_jax.checkpoint.errors import CheckpointError, check_tensors
from helios_jax.checkpoint.layouts import layout_of
from helios_jax.checkpoint.lora import merge
from helios_jax.checkpoint.names import component_slots
from helios_jax.checkpoint.places import resolve, snapshot_remark
from helios_jax.checkpoint.rest import (
    Rest,
    read_rest,
    sampling_of,
    transformer_config_beside,
    wan_sampling,
)
from helios_jax.checkpoint.safetensors_files import TorchTensor
from helios_jax.checkpoint.stored import TIED
from helios_jax.checkpoint.transformer_source import Transformer, read_transformer
from helios_jax.config import HeliosConfig

Components = dict[str, dict[str, TorchTensor]]

CAUSES = (
    (
        "unexpected",
        r"[qkv]_loras\.",
        "q_loras, k_loras and v_loras are artefacts of training with restrict_lora: use the merged "
        "release",
    ),
    (
        "unexpected",
        r"\.lora_(A|B|up|down)\b",
        kinds.ADAPTER_ADVICE,
    ),
    (
        "unexpected",
        r"history_key_scale",
        "The transformer's config.json should say is_amplify_history: true",
    ),
    (
        "missing",
        r"history_key_scale",
        "The transformer's config.json should say is_amplify_history: false",
    ),
    (
        "missing",
        r"^patch_(short|mid|long)\.",
        "Without its history patches this is a Wan transformer: pass --init_from_wan",
    ),
    (
        "missing",
        r"",
        "A shard may be missing, or the folder may hold another model than its config.json says",
    ),
    ("unexpected", r"", "The folder may hold another model than its config.json says"),
)
"""Which kind of difference, in which names, points to what; the first that matches is reported."""


class TransformerAloneError(CheckpointError):
    """A transformer without the rest that it runs with."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which weights to read.

    Attributes:
      source: a file, a folder, or the name of a repository in the Hugging Face cache.
      transformer: the folder, or the entry of a file, of one of several transformers in it; None:
        the only one.
      rest: a source, or a helios-jax checkpoint, from which all but the transformer is taken; None:
        the source itself.
      verify: refuse NaN and infinite values.
    """

    source: str | os.PathLike
    transformer: str | None = None
    rest: str | os.PathLike | None = None
    verify: bool = True


@dataclasses.dataclass(frozen=True)
class Source:
    """PyTorch weights, every tensor present and of the right shape.

    Attributes:
      config: what their configurations say.
      tensors: by component and name.
      tied: which of :data:`TIED` the text encoder's files hold; ``tensors`` has the first in any
        case.
      tokenizer: its folder.
      notes: what was done that nobody asked for, a sentence each.
    """

    config: HeliosConfig
    tensors: Components
    tied: tuple[str, ...]
    tokenizer: Path
    notes: tuple[str, ...] = ()


def read_source(
    selection: Selection,
    init_from_wan: bool = False,
    adapters: Sequence[AdapterFile] = (),
    partial: Path | None = None,
) -> Source:
    """Read a Helios, or a Wan T2V to start one from.

    Args:
      selection: which weights.
      init_from_wan: they are Wan's, to which Helios' history patches are added.
      adapters: merged into the transformer, see :func:`helios_jax.checkpoint.lora.merge`.
      partial: likewise.

    Raises:
      CheckpointError: if they are neither, or incomplete, or hold more than would be read; the
        message ends with what they are.
      TransformerAloneError: if all that is missing is the rest.
    """
    place = resolve(selection.source)
    try:
        found = _read(place, selection, init_from_wan)
    except CheckpointError as error:
        known = describe(place, selection.transformer)
        raise type(error)(f"{error} [{known}]") from error
    if not (adapters or partial):
        return found
    tensors = dict(found.tensors)
    tensors["transformer"] = merge(tensors["transformer"], adapters, partial)
    config = _with_history_scale(found.config, tensors["transformer"])
    _check(place, {"transformer": tensors["transformer"]}, config)
    return dataclasses.replace(found, config=config, tensors=tensors)


def _read(place: Path, selection: Selection, init_from_wan: bool) -> Source:
    """The weights without what was trained on them."""
    beside = place if selection.rest is None else resolve(selection.rest)
    alone = selection.rest is None and layout_of(place) in ("component", "file")
    like = None if alone else transformer_config_beside(beside)
    transformer = read_transformer(place, selection.transformer, like)
    _check_flag(place, init_from_wan, transformer)
    if alone:
        raise TransformerAloneError(
            f"{place} is a transformer alone: pass --rest FROM, with a folder that has its VAE, "
            "text encoder and tokenizer (a Diffusers folder, an original Wan 2.1 folder or a "
            "helios-jax checkpoint)"
        )
    rest = read_rest(beside)
    config = _config(place, beside, transformer, rest)
    tensors: Components = {
        "transformer": transformer.tensors,
        **rest.tensors,
        **transformer.bundled,
    }
    if transformer.is_wan:
        _check(place, {"transformer": tensors["transformer"]}, config, without=wan.HISTORY_PATCHES)
        tensors["transformer"] = wan.with_history_patches(tensors["transformer"])
    tied = tuple(name for name in TIED if name in tensors["text_encoder"])
    tensors["text_encoder"] = _without_tied_copy(beside, tensors["text_encoder"])
    for name, own in tensors.items():
        from_rest = name in rest.tensors and name not in transformer.bundled
        _check(beside if from_rest else place, {name: own}, config)
    notes = transformer.notes
    for given, found in ((selection.source, place), (selection.rest, beside)):
        if given is not None and (remark := snapshot_remark(given, found)):
            notes += (remark,)
    if not transformer.is_wan and sampling_of(place) is None:
        steps = "+".join(map(str, config.sample.steps))
        notes += (f"it is sampled as {beside} is: {config.scheduler.solver}, {steps} steps",)
    return Source(config, tensors, tied, rest.tokenizer, notes)


def _check_flag(place: Path, init_from_wan: bool, transformer: Transformer) -> None:
    """Refuse a flag that does not agree with the weights."""
    if init_from_wan and not transformer.is_wan:
        raise CheckpointError(f"{place} has its history patches: leave out --init_from_wan")
    if transformer.is_wan and not init_from_wan:
        raise CheckpointError(f"{place} is a Wan {_noun(place)}: pass --init_from_wan")


def _noun(place: Path) -> str:
    return "file" if place.is_file() else "folder"


def _config(place: Path, beside: Path, transformer: Transformer, rest: Rest) -> HeliosConfig:
    """The whole configuration; what starts from Wan is sampled as Helios-Base, and a Helios as its
    own folder says, else as the rest's.
    """
    scheduler = rest.scheduler
    sample = rest.sample
    if transformer.is_wan:
        scheduler, sample = wan_sampling()
    elif own := sampling_of(place):
        scheduler, sample = own
    if scheduler is None or sample is None:
        raise CheckpointError(
            f"{beside} is Wan's and does not say how a Helios is sampled: give as --rest a Helios "
            "of the same stage (Base, Mid or Distilled)"
        )
    return checked(
        place,
        HeliosConfig,
        transformer=transformer.config,
        vae=rest.vae,
        text_encoder=rest.text_encoder,
        scheduler=scheduler,
        sample=sample,
    )


def _without_tied_copy(folder: Path, tensors: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
    """The text encoder with its embedding under the first of :data:`TIED` only."""
    embeddings = [tensors[name] for name in TIED if name in tensors]
    if len(embeddings) == 2 and not _equal(*embeddings):
        raise CheckpointError(
            f"{folder}: {' and '.join(TIED)} differ; they should be one embedding"
        )
    rest = {name: tensor for name, tensor in tensors.items() if name not in TIED}
    return {TIED[0]: embeddings[0], **rest} if embeddings else rest


def _equal(one: TorchTensor, other: TorchTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    rows = range(0, one.shape[0], 4096)
    return all(
        np.array_equal(one.read()[row : row + 4096], other.read()[row : row + 4096]) for row in rows
    )


def _with_history_scale(config: HeliosConfig, tensors: Mapping[str, TorchTensor]) -> HeliosConfig:
    """``config`` with ``is_amplify_history`` switched on if a partial file brought the scales."""
    scale = tensors.get("blocks.0.attn1.history_key_scale")
    if scale is None or config.transformer.is_amplify_history:
        return config
    mode = "scalar" if scale.shape == (1,) else "per_head"
    return dataclasses.replace(
        config,
        transformer=dataclasses.replace(
            config.transformer, is_amplify_history=True, history_scale_mode=mode
        ),
    )


def _check(
    folder: Path,
    tensors: Mapping[str, Mapping[str, TorchTensor]],
    config: HeliosConfig,
    without: str = r"$^",
) -> None:
    """Compare tensors with the name tables, less the names that ``without`` matches."""
    for component, found in tensors.items():
        expected = {
            slot.name: slot.shape
            for slot in component_slots(config, component)
            if not re.match(without, slot.name)
        }
        check_tensors(
            f"{component} of {folder}",
            expected,
            {name: tensor.shape for name, tensor in found.items()},
            _likely_cause,
        )


def _likely_cause(missing: set[str], unexpected: set[str]) -> str | None:
    names = {"missing": missing, "unexpected": unexpected}
    for kind, pattern, cause in CAUSES:
        if any(re.search(pattern, name) for name in names[kind]):
            return cause
    return None
