"""The error that says in one line what is wrong with a checkpoint."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from helios_jax.errors import HeliosError


class CheckpointError(HeliosError, ValueError):
    """A checkpoint that cannot be read, written or converted; the message is one line that says
    what, where and what to do.
    """


def check_tensors(
    what: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    likely_cause: Callable[[set[str], set[str]], str | None] = lambda missing, unexpected: None,
) -> None:
    """Compare the tensors a component must have with those it has.

    Args:
      what: the file or folder, for the message.
      expected: shape by name.
      found: shape by name.
      likely_cause: given the missing and the unexpected names, a sentence that explains them, or
        None.

    Raises:
      CheckpointError: naming every missing, unexpected and misshaped tensor at once. Equal names of
        successive layers are written as ``blocks.{0-39}.norm2.weight``.
    """
    missing = expected.keys() - found.keys()
    unexpected = found.keys() - expected.keys()
    wrong = {
        name: f" is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    }
    kinds = {
        "missing": dict.fromkeys(missing, ""),
        "unexpected": dict.fromkeys(unexpected, ""),
        "of another shape": wrong,
    }
    problems = [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        cause = likely_cause(missing, unexpected)
        message = (
            f"{what} does not have the tensors its configuration asks for; {'; '.join(problems)}"
        )
        raise CheckpointError(f"{message}. {cause}" if cause else message)


MAX_ENTRIES = 60
MAX_ENTRY = 160
"""How many names a message has of each kind, and how many letters of each."""


def _listed(names: Mapping[str, str]) -> str:
    """The entries of :func:`summarise` with commas, cut where a file was made to be long."""
    entries = summarise(names)
    shown = [x if len(x) <= MAX_ENTRY else f"{x[:MAX_ENTRY]}..." for x in entries[:MAX_ENTRIES]]
    more = len(entries) - MAX_ENTRIES
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def first_few(entries: Sequence[str], separator: str = ", ") -> str:
    """The first three of some entries, and how many more there are."""
    more = [f"and {len(entries) - 3} more"] if len(entries) > 3 else []
    return separator.join([*entries[:3], *more])


def summarise(names: Mapping[str, str]) -> list[str]:
    """Names, each followed by its remark, in order, where those that differ in the first number and
    nothing else share one entry.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for name, remark in names.items():
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        pattern = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
        groups[pattern, remark].append(-1 if number is None else int(number.group()))
    entries = []
    for (pattern, remark), numbers in sorted(groups.items()):
        name = pattern
        if numbers != [-1]:
            name = pattern.replace("{}", _ranges(sorted(numbers)))
        entries.append(name + remark)
    return entries


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``{0-2,5}``, one number as itself."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"
