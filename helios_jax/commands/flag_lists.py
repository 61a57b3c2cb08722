"""The flags of every command, as the site's reference and the shell's completion need them."""

import importlib
from collections.abc import Iterator
from types import ModuleType

from absl import flags

from helios_jax.commands import COMMANDS
from helios_jax.commands.cli import DefineFlags


def find_command(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"helios_jax.commands.{name.replace('-', '_')}")


def subcommands(module: ModuleType) -> Iterator[tuple[str, str, DefineFlags]]:
    """Name, text and flags of a command's own commands; a name of "" where it has none."""
    if hasattr(module, "COMMANDS"):
        for name, (doc, define_flags, _) in module.COMMANDS.items():
            yield name, doc, define_flags
    elif hasattr(module, "define_flags"):
        yield "", module.__doc__ or "", module.define_flags
    else:  # it takes the flags of other commands
        yield "", module.__doc__ or "", lambda options, argv: None


def flag_names(name: str) -> list[str]:
    """The flags of a command, and of its own commands, without dashes; its own commands first."""
    found: dict[str, None] = {}
    names: dict[str, None] = {}
    for subcommand, _, define_flags in subcommands(find_command(name)):
        options = flags.FlagValues()
        define_flags(options, [f"helios-jax {name}"])
        names |= dict.fromkeys(options)
        if subcommand:
            found[subcommand] = None
    return [*found, *(f"--{each}" for each in sorted(names))]


def all_flag_names() -> dict[str, list[str]]:
    """:func:`flag_names` of every command."""
    return {name: flag_names(name) for name in COMMANDS}
