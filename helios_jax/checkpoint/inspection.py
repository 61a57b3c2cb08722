"""What a place holds, what it can become here, and by which command."""

import dataclasses
import os
import shlex
import textwrap
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helios_jax.checkpoint.describe import LAYOUTS, Description, Part, describe, short
from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.pipeline_index import STARTING_POINTS
from helios_jax.checkpoint.places import resolve
from helios_jax.checkpoint.source import Selection, TransformerAloneError, read_source

CONVERT = "helios-jax convert"
FROM = "FROM"
"""Stands for a source that gives the rest, in commands that need one."""

WIDTH = 100
"""Columns of what is printed, save commands, which are to be copied."""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A description, and what follows from it.

    Attributes:
      found: what the place holds.
      becomes: what it can become here, or why nothing.
      commands: that make it so.
    """

    found: Description
    becomes: str
    commands: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain values, for JSON."""
        return {
            **dataclasses.asdict(self.found),
            "becomes": self.becomes,
            "commands": list(self.commands),
        }

    def __str__(self) -> str:
        """All of it in aligned lines, no more than a screen."""
        found = self.found
        rows = [
            ("source", found.source),
            ("layout", found.layout),
            ("model", found.model),
            *((part.name, _part_line(part)) for part in found.parts),
            ("adapter", found.adapter),
            ("sampler", found.sampler),
            ("becomes", self.becomes),
        ]
        rows = [(label, text) for label, text in rows if text]
        column = 2 + max(len(label) for label, _ in rows)
        lines = []
        for label, text in rows:
            indent = " " * column
            lines += textwrap.wrap(
                text,
                WIDTH,
                initial_indent=f"{label:<{column}}",
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines += [f"{'command':<{column}}{command}" for command in self.commands]
        return "\n".join(lines)


def inspect(source: str | os.PathLike, selection: Selection | None = None) -> Inspection:
    """Look at a place: its headers are read, and the strict checks of a conversion are made.

    Args:
      source: a path, or the name of a repository in the Hugging Face cache.
      selection: the transformer and the rest that a conversion would take.

    Raises:
      CheckpointError: if nothing is there.
    """
    selection = selection or Selection(source)
    path = resolve(source)
    found = describe(path, selection.transformer)
    quoted = shlex.quote(str(source))
    if found.problem:
        return Inspection(found, f"nothing: {found.problem}", ())
    if found.layout == LAYOUTS["checkpoint"]:
        return Inspection(
            found,
            "videos, or a Diffusers folder",
            (
                f"helios-jax sample --checkpoint {quoted} --prompt TEXT --out video.mp4",
                f"{CONVERT} --to_diffusers --source {quoted} --out DIFFUSERS",
            ),
        )
    if found.layout == LAYOUTS["adapter"]:
        return Inspection(
            found,
            "part of a checkpoint, merged into the base it was trained on",
            (f"{CONVERT} --source BASE --lora {quoted} --out checkpoints/{_name(path)}",),
        )
    return _of_weights(found, path, quoted, selection)


def _of_weights(found: Description, path: Path, quoted: str, selection: Selection) -> Inspection:
    """What a conversion makes of PyTorch weights, by trying all of it but the writing."""
    is_wan = found.family.startswith("Wan")
    words = [CONVERT, "--source", quoted]
    if selection.transformer:
        words += ["--transformer", shlex.quote(selection.transformer)]
    if is_wan:
        words.append("--init_from_wan")
    needs_rest = selection.rest is None and found.layout.startswith(
        (LAYOUTS["file"], LAYOUTS["component"])
    )
    if selection.rest or needs_rest:
        words += ["--rest", shlex.quote(str(selection.rest or FROM))]
    try:
        read_source(selection, init_from_wan=is_wan)
    except TransformerAloneError:
        pass  # the command says where the rest goes
    except CheckpointError as error:
        commands = _choices(found, words, path)
        return Inspection(found, f"nothing as it is: {_reason(error, found)}", commands)
    made = "a Helios to start training from" if is_wan else f"a checkpoint of {found.model}"
    if needs_rest:
        made += f", with VAE, text encoder and tokenizer {FROM} another source or checkpoint"
    commands = [f"{' '.join(words)} --out checkpoints/{_name(path)}"]
    for part in found.parts:
        if part.name in STARTING_POINTS and not (needs_rest or selection.transformer):
            chosen = [*words, "--transformer", part.name]
            commands.append(f"{' '.join(chosen)} --out checkpoints/{_name(path)}-{part.name}")
    return Inspection(found, made, tuple(commands))


def _choices(found: Description, words: list[str], path: Path) -> tuple[str, ...]:
    """The commands that take one of two transformers."""
    names = [part.name for part in found.parts]
    experts = [name for name in ("transformer", "transformer_2") if name in names]
    experts = experts if len(experts) == 2 else [name for name in names if name.endswith("_model")]
    if len(experts) != 2 or "--transformer" in words:
        return ()
    return tuple(
        f"{' '.join([*words, '--transformer', name])} --out checkpoints/{_name(path)}-{name}"
        for name in experts
    )


def _reason(error: CheckpointError, found: Description) -> str:
    """A refusal without what it says about the place, which stands above it."""
    return str(error).removesuffix(f" [{found}]")


def _name(path: Path) -> str:
    """A name for what is made of a place."""
    name = path.stem if path.is_file() else path.name
    for part in path.parts:
        if part.startswith("models--"):
            name = part.rpartition("--")[2]
    return shlex.quote(name.lower() or "converted")


def _part_line(part: Part) -> str:
    """A part's sizes."""
    if not part.tensors:
        return f"not readable: {part.remark}"
    size = tqdm.format_sizeof(part.nbytes, "B", 1000)
    numbers = f"{short(part.parameters)} parameters, {part.tensors} tensors, {size}"
    return f"{numbers}, {'/'.join(part.dtypes)}{f', {part.remark}' if part.remark else ''}"
