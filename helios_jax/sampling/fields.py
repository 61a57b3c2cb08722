"""What a request's fields state beside their type: flags, states and plans are made from it."""

import dataclasses
import re
from typing import Any

from helios_jax.errors import HeliosError


class RequestError(HeliosError, ValueError):
    """A request that the model cannot serve; the message says what to change."""


def request_field(
    help: str, *, default: Any = dataclasses.MISSING, sampler: bool = False, flag: bool = True
) -> Any:
    """A field of a request.

    Args:
      help: of its flag.
      default: where nothing is given. Without one, the model's configuration has a field of this
        name, in ``sample`` or ``scheduler``, which gives its default and its range.
      sampler: whether it is how a checkpoint is sampled, in which a caller may depart from it.
      flag: whether commands have a flag of its name.
    """
    metadata = {"help": help, "sampler": sampler, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata)


def check_unicode(what: str, text: str) -> None:
    """Refuse halves of surrogate pairs, which are no characters: what a shell passes on of bytes
    that are not UTF-8, and JSON writes as ``\\ud800``.

    Raises:
      RequestError: saying which.
    """
    if half := re.search("[\ud800-\udfff]", text):
        raise RequestError(
            f"{what} is not valid Unicode: its character {half.start() + 1} is half of a pair, "
            f"U+{ord(half[0]):04X}; give it as UTF-8"
        )


def show(value: Any) -> str:
    """A value as a flag has it: numbers of a tuple apart by commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
