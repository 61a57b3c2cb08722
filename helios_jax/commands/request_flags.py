"""Flags of a request's fields, made from what the fields say of themselves."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from helios_jax.sampling.fields import RequestError, show
from helios_jax.sampling.request import field_types, request_fields


def define_request_flags(options: flags.FlagValues, only: Sequence[str] | None = None) -> None:
    """Define a flag for each field of :class:`~helios_jax.sampling.request.Request` that has one.

    Args:
      options: where the flags are defined.
      only: the names of some fields; by default all.
    """
    types = field_types()
    for field in request_fields():
        if field.metadata["flag"] and (only is None or field.name in only):
            _define(options, field, types[field.name])


def read_request_flags(options: flags.FlagValues) -> dict[str, Any]:
    """Fields by name, of the flags that are given on the command line.

    Raises:
      RequestError: if a list has something else than numbers in it.
    """
    types = field_types()
    found = {}
    for field in request_fields():
        if field.name not in options or not options[field.name].present:
            continue
        value: Any = options[field.name].value
        if typing.get_origin(types[field.name]) is tuple:
            kind = typing.get_args(types[field.name])[0]
            value = read_numbers(value, kind, field.name)
        found[field.name] = value
    return found


def read_numbers(words: Sequence[str], kind: type, flag: str) -> tuple[Any, ...]:
    """The numbers of a list flag.

    Raises:
      RequestError: naming the flag and what is no number.
    """
    numbers = []
    for word in words:
        try:
            numbers.append(kind(word))
        except ValueError:
            whole = "whole " if kind is int else ""
            raise RequestError(f"--{flag} takes {whole}numbers, not {word!r}") from None
    return tuple(numbers)


def _define(options: flags.FlagValues, field: dataclasses.Field, hint: Any) -> None:
    """Define the flag of one field, by its type; without a value on the command line it has the
    field's default, or None where that is the checkpoint's.
    """
    help = field.metadata["help"]
    default = None if field.default is dataclasses.MISSING else field.default
    if typing.get_origin(hint) is tuple:
        words = None if default is None else show(default).split(",")
        flags.DEFINE_list(field.name, words, help, flag_values=options)
    elif typing.get_origin(hint) is typing.Literal:
        names = list(typing.get_args(hint))
        flags.DEFINE_enum(field.name, default, names, help, flag_values=options)
    else:
        define = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[hint]
        define(field.name, default, help, flag_values=options)
