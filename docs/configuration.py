"""The page of the reference that lists every field of a configuration, from the dataclasses and
their docstrings. ``conf.py`` writes it.
"""

import ast
import dataclasses
import inspect
import re
import typing
from typing import Annotated, Any, Literal

from helios_jax.config import HeliosConfig
from helios_jax.fields import Range
from helios_jax.training.config import TrainConfig

LONGEST = 60
"""Characters of a default that the page has whole."""
INTRODUCTION = """# Configuration

A recipe is a dataclass, and any field of it is a flag: `--config.steps=20` for the field `steps` of
a training run, `--config.optimizer.learning_rate=1e-4` for one of its section `optimizer`.
`--show_config` prints a recipe with its values. Fields without a meaning here have that of the same
name in Diffusers.
"""


def as_page() -> str:
    """The tables of models and of training runs."""
    parts = [INTRODUCTION, "## A model", "", "What a checkpoint's `config.json` holds.", ""]
    parts += section(HeliosConfig, "")
    parts += ["## A training run", "", "`model` is a whole configuration of the kind above.", ""]
    parts += section(TrainConfig, "", without=("model",))
    return "\n".join(parts)


def section(config: Any, path: str, without: tuple[str, ...] = ()) -> list[str]:
    """The lines of a dataclass's table, and of those of its sections.

    Args:
      config: the dataclass.
      path: of the section, with dots.
      without: sections that are left out.
    """
    meanings = attributes(config)
    hints = typing.get_type_hints(config, include_extras=True)
    lines = [f"### {path}", ""] if path else []
    summary = (inspect.getdoc(config) or "").split("\n\n")[0]
    lines += [plain(summary), ""]
    rows: list[str] = []
    below: list[str] = []
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            if field.name not in without:
                where = f"{path}.{field.name}" if path else field.name
                below += section(hints[field.name], where)
            continue
        cells = [
            f"`{field.name}`",
            kind(hints[field.name]),
            f"`{shown(field.default)}`",
            meanings.get(field.name, ""),
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if rows:
        lines += ["| field | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    return [*lines, *below]


def attributes(config: Any) -> dict[str, str]:
    """What the docstrings of a dataclass, or of those that it inherits from, say of its fields."""
    found: dict[str, str] = {}
    for each in reversed(config.__mro__):
        _, _, listed = (inspect.getdoc(each) or "").partition("\nAttributes:\n")
        for names, text in re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", listed, re.MULTILINE):
            for name in names.split(", "):
                found[name] = plain(text)
    return found


def plain(text: str) -> str:
    """Text of a docstring as Markdown in one line."""
    words = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", " ".join(text.split()))
    return words.replace("``", "`")


def kind(hint: Any) -> str:
    """A type in words: ``int, at least 1``."""
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint)
    if origin is Annotated:
        ranges = [str(each) for each in parts[1:] if isinstance(each, Range)]
        return ", ".join([kind(parts[0]), *ranges])
    if origin is Literal:
        return "one of " + ", ".join(f"`{each}`" for each in parts)
    if origin is tuple:
        inner = [kind(each) for each in parts if each is not Ellipsis]
        if Ellipsis in parts or len(set(inner)) == 1:
            count = "" if Ellipsis in parts else f"{len(inner)} times "
            return f"tuple of {count}{inner[0]}"
        return f"tuple of {', '.join(inner)}"
    if parts:  # a union
        return " or ".join(kind(each) for each in parts)
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def shown(default: Any) -> str:
    """A default, shortened where it is long."""
    if default is dataclasses.MISSING:
        return "..."
    text = repr(default)
    if len(text) <= LONGEST:
        return text
    return f"{len(default)} values" if isinstance(ast.literal_eval(text), tuple) else "..."
