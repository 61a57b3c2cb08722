"""Configuration dataclasses: read strictly, checked by the ranges that their fields state.

A field's annotation says what it may be. ``Annotated[int, Range(1)]`` is a whole number of at least
1; the range of a tuple's annotation holds for each of its items.
"""

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import ml_collections

from helios_jax.errors import HeliosError

Section = TypeVar("Section")


class ConfigError(HeliosError, ValueError):
    """A configuration that cannot be used; the message names the field and what it should be."""


class Range(NamedTuple):
    """Numbers that a field may have; NaN and infinity are in no range.

    Attributes:
      least, greatest: the bounds, which belong to the range.
      above: a bound that does not.
    """

    least: float = -math.inf
    greatest: float = math.inf
    above: float = -math.inf

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        # An integer that no float can hold is still compared exactly.
        return self.least <= value <= self.greatest and value > self.above

    def __str__(self) -> str:
        parts = []
        if math.isfinite(self.least):
            parts.append(f"at least {self.least:g}")
        if math.isfinite(self.above):
            parts.append(f"greater than {self.above:g}")
        if math.isfinite(self.greatest):
            parts.append(f"at most {self.greatest:.10g}")
        return " and ".join(parts) or "finite"


MOST = 2**31 - 1
"""The greatest number that a device counts to."""

Count = Annotated[int, Range(1, MOST)]
"""At least 1."""

Natural = Annotated[int, Range(0, MOST)]
"""At least 0."""

Share = Annotated[float, Range(0, 1)]
"""From 0 to 1."""

Positive = Annotated[float, Range(above=0)]
"""Greater than 0."""

NonNegative = Annotated[float, Range(0)]
"""At least 0."""

Finite = Annotated[float, Range()]
"""Any number but NaN and infinity."""


class Checked:
    """Base of configuration dataclasses: numbers are within the ranges that their fields state.

    A subclass with rules between fields calls ``super().__post_init__()`` before it checks them.
    """

    section = ""
    """Name of the section in messages; empty at the top."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            where = f"{self.section}.{name}" if self.section else name
            _check(hint, getattr(self, name), where)


def from_dict(
    section: type[Section], values: Mapping[str, Any] | ml_collections.ConfigDict, path: str = ""
) -> Section:
    """Build a configuration dataclass from a mapping; fields left out keep their defaults.

    Args:
      section: the dataclass, e.g. :class:`~helios_jax.config.HeliosConfig`.
      values: a dict or ``ConfigDict``; lists are accepted where tuples are expected, integers where
        floats are.
      path: prefix for messages, e.g. ``"transformer"``.

    Raises:
      ConfigError: naming the first unknown or ill-typed field, or one out of its range.
    """
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        what = path or "a configuration"
        raise ConfigError(f"{what} must be a mapping of fields, not {type(values).__name__}")
    hints = typing.get_type_hints(section)
    fields = {}
    for name, value in values.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, 1)
            advice = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"unknown configuration field {where!r}; {advice}known here: {', '.join(hints)}"
            )
        fields[name] = _coerce(hints[name], value, where)
    return section(**fields)


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dictionary that :func:`from_dict` reads back; tuples stay tuples."""
    return dataclasses.asdict(config)


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """The ``ConfigDict`` of a configuration: locked and typed, so that
    ``--config.section.field=value`` is checked.
    """
    return ml_collections.ConfigDict(_with_placeholders(to_dict(config)))


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
        # A section that one of them lacks differs field by field.
        if ours is ABSENT and isinstance(theirs, Mapping):
            ours = {}
        if theirs is ABSENT and isinstance(ours, Mapping):
            theirs = {}
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


def _with_placeholders(values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dictionary with a placeholder for each None, so that a flag can set it."""
    opened: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            opened[name] = ml_collections.config_dict.placeholder(str)
        else:
            opened[name] = _with_placeholders(value) if isinstance(value, dict) else value
    return opened


def _check(hint: Any, value: Any, where: str) -> None:
    """Refuse a value, or an item of a tuple, that is out of the range its annotation states."""
    for item, (range_, place) in _ranges(hint, value, where):
        if item not in range_:
            raise ConfigError(f"{place}={_short(item)} must be {range_}")


def _short(value: Any) -> str:
    """A value as a message shows it, which may be a number of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no more than 4,300
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _ranges(hint: Any, value: Any, where: str) -> Iterator[tuple[Any, tuple[Range, str]]]:
    """The numbers of a value, each with its range and its place."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin is Annotated:
        kind, *metadata = args
        for found in metadata:
            if not isinstance(found, Range):
                continue
            items = enumerate(value) if isinstance(value, tuple) else [(None, value)]
            for i, item in items:
                yield item, (found, where if i is None else f"{where}[{i}]")
        yield from _ranges(kind, value, where)
    elif origin is tuple and isinstance(value, tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        for i, (kind, item) in enumerate(zip(kinds, value)):
            yield from _ranges(kind, item, f"{where}[{i}]")
    elif origin in (typing.Union, types.UnionType) and value is not None:
        for kind in args:
            yield from _ranges(kind, value, where)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type, or ConfigError."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}={_short(value)} must be one of {', '.join(map(repr, args))}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return _coerce_tuple(args, value, where)
    elif origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in args:
            return None
        return _coerce(next(kind for kind in args if kind is not types.NoneType), value, where)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
        raise ConfigError(f"{where} is greater than any float")
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = getattr(hint, "__name__", hint)
    raise ConfigError(
        f"{where}={_short(value)} must be of type {expected}, not {type(value).__name__}"
    )


def _coerce_tuple(args: tuple[Any, ...], value: list | tuple, where: str) -> tuple[Any, ...]:
    """A list or tuple as a tuple of the annotated types."""
    if args[-1] is not Ellipsis and len(value) != len(args):
        raise ConfigError(f"{where}={_short(value)} must have {len(args)} values")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
    return tuple(
        _coerce(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value))
    )
