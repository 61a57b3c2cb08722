"""What is wrong with ``--config``: a field that is not there, or a recipe of another kind."""

import difflib
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST = 24
"""Fields that a message lists."""


def explain_unknown_field(words: Sequence[str]) -> str:
    """A line about the first ``--config.field=value`` whose field the recipe does not have, with
    the nearest one and those beside it; empty if there is none.

    Args:
      words: the command line, with the recipe's path in ``--config``.
    """
    paths = [match for word in words if (match := re.match(r"--?config=([^:]+):?(.*)", word))]
    if not paths:
        return ""
    make = runpy.run_path(paths[-1][1])["get_config"]
    fields = make(paths[-1][2]).to_dict() if paths[-1][2] else make().to_dict()
    for word in words:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", word)
        if match and not _has(fields, match[1]):
            return _describe(fields, match[1])
    return ""


def _has(fields: Mapping[str, Any], name: str) -> bool:
    """Whether a dotted name leads to a field."""
    first, _, rest = name.partition(".")
    if first not in fields:
        return False
    if not rest:
        return True
    return isinstance(fields[first], Mapping) and _has(fields[first], rest)


def _describe(fields: Mapping[str, Any], name: str) -> str:
    """The line about a field that is not there."""
    *sections, last = name.split(".")
    beside: Any = fields
    where = []
    for section in sections:
        if not isinstance(beside, Mapping) or section not in beside:
            break
        beside = beside[section]
        where.append(section)
    nearest = _nearest(fields, ".".join(where), last)
    advice = f"; did you mean --config.{nearest}?" if nearest else ""
    listed = ""
    if isinstance(beside, Mapping):
        names = sorted(beside)
        more = ", ..." if len(names) > MOST else ""
        listed = f"; {'.'.join(where) or 'the recipe'} has {', '.join(names[:MOST])}{more}"
    return f"--config.{name}: there is no such field{advice}{listed} (all: --show_config)"


def _nearest(fields: Mapping[str, Any], section: str, name: str) -> str:
    """The dotted name whose last part is nearest to ``name``, or has it as initials: in a section,
    or else as far up as there is one.
    """
    paths = sorted(_paths(fields), key=lambda path: path.count("."))
    paths.sort(key=lambda path: not path.startswith(f"{section}."))
    names: dict[str, str] = {}
    for path in paths:
        names.setdefault(path.rpartition(".")[2], path)
    for last, path in names.items():
        if "_" in last and "".join(part[:1] for part in last.split("_")) == name:
            return path
    near = difflib.get_close_matches(name, names, 1)
    return names[near[0]] if near else ""


def _paths(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """All dotted names."""
    for name, value in fields.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")


def list_fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A line ``section.field=value`` for each field."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from list_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value!r}"
