"""What all commands share: flags of their own, recipes found by name, errors as one line."""

import contextlib
import ctypes
import io
import logging
import math
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import absl.logging
import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from helios_jax import configs, devices, nano
from helios_jax.commands import READER_GONE, drop_unprinted, open_closed_streams
from helios_jax.commands.recipe_fields import explain_unknown_field, list_fields
from helios_jax.commands.signals import terminable
from helios_jax.errors import HeliosError
from helios_jax.memory import compiler
from helios_jax.models.tokenizer import TruncatedPromptWarning

RECIPES = [Path(folder) for folder in configs.__path__]
"""Folders of the recipes that ship with the package."""

WIDTH = 100
"""Columns of a help text."""

MAY_BE_EMPTY = (
    "compile_cache", "coordinator", "negative_prompt", "note", "prompt", "title", "wandb",
)  # fmt: skip
"""Flags of text whose empty value says something, or is refused where it is read."""

DefineFlags: TypeAlias = Callable[[flags.FlagValues, Sequence[str]], None]
"""Defines a command's flags in the ``FlagValues`` it is given; all arguments come with it."""


class UsageError(HeliosError):
    """The flags of a command are wrong."""


def run_command(
    doc: str,
    define_flags: DefineFlags,
    body: Callable[[flags.FlagValues], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the flags of a command and run it.

    Each call has flags of its own, so commands can be imported side by side and called from Python.

    Args:
      doc: what ``--help`` prints above the flags.
      define_flags: see :data:`DefineFlags`.
      body: does the work; it reads its options as attributes of the parsed ``FlagValues``.
      argv: the program's name and its arguments; by default those of the process.

    Returns:
      The exit status: 0, or that of the :class:`~helios_jax.errors.HeliosError` (2 for most), whose
      message is one line on standard error.
    """
    argv = list(sys.argv if argv is None else argv)
    open_closed_streams()
    _quiet_libraries()
    options = flags.FlagValues()
    with terminable(), _printable():
        return _run(doc, define_flags, body, argv, options)


def _run(
    doc: str,
    define_flags: DefineFlags,
    body: Callable[[flags.FlagValues], None],
    argv: list[str],
    options: flags.FlagValues,
) -> int:
    """The exit status of :func:`run_command`."""
    try:
        if wants_help(argv):
            define_flags(options, argv)
            print(help_text(doc, options), flush=True)
            return 0
        _parse(options, define_flags, argv)
        if "show_config" in options and options.show_config:
            print("\n".join(shown_config(options)), flush=True)
            return 0
        _find_checkpoint(options)
        with _warnings_as_lines(argv[0]):
            body(options)
        sys.stdout.flush()
    except HeliosError as error:
        complain(str(error), argv[0])
        return error.exit_status
    except OSError as error:
        printable = drop_unprinted()
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        complain(_system_reason(error, printable), argv[0])
        return HeliosError.exit_status
    except KeyboardInterrupt:
        complain("interrupted; files that were not finished are removed", argv[0])
        return 130
    except MemoryError as error:
        reason = " ".join(str(error).split()) or "this machine has no more"
        complain(f"out of memory: {reason}", argv[0])
        return HeliosError.exit_status
    except Exception:
        if reason := devices.unavailable():
            complain(reason, argv[0])
            return HeliosError.exit_status
        raise
    return 0


def _system_reason(error: OSError, printable: bool) -> str:
    """What the system says, after the name of what it says it of.

    Args:
      error: what it says.
      printable: whether standard output can be written.
    """
    reason = error.strerror or str(error)
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)}: {reason}"
    if not printable:
        return f"standard output cannot be written: {reason}"
    if isinstance(error, FileNotFoundError):  # all that says this without a name
        return f"the working folder is no longer there: {reason}"
    return reason


@contextlib.contextmanager
def _warnings_as_lines(program: str) -> Generator[None]:
    """Print a prompt that is cut as one line in the program's name, wherever it is met."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncatedPromptWarning)
        others = warnings.showwarning

        def show(message, category, *place, **more) -> None:
            if issubclass(category, TruncatedPromptWarning):
                complain(str(message), program)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


def complain(message: str, program: str | None = None) -> None:
    """Print one line on standard error, in the program's name. What a terminal would obey, such as
    an escape character in the name of a file, is printed as it is written in Python.
    """
    name = os.path.basename(program or sys.argv[0])
    line = " ".join(message.split())
    line = re.sub(r"\S{400,}", lambda word: f"{word[0][:200]}...{word[0][-50:]}", line)
    if not line.isprintable():
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    with contextlib.suppress(OSError):  # the exit status says it, too
        print(f"{name}: {line}", file=sys.stderr)


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for the help text."""
    return any(argument in ("--help", "-help", "-h") for argument in argv[1:])


def help_text(doc: str, options: flags.FlagValues) -> str:
    """The description of a command, and a paragraph for each of its flags."""
    lines = [doc.strip(), "", "Flags:", ""]
    for name in sorted(options):
        flag = options[name]
        lines.append(f"  --{'[no]' if flag.boolean and flag.parser.syntactic_help else ''}{name}")
        notes = " ".join(_notes(flag))
        text = f"{(flag.help or '').strip()} {notes}".strip()
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent="      ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def define_config(options: flags.FlagValues, argv: Sequence[str], help: str) -> None:
    """Define ``--config``: a recipe of the package by name, or a file like one.

    Fields are overridden by ``--config.field=value``.

    Args:
      options: where the flag is defined.
      argv: all arguments, which ml_collections searches for overrides.
      help: of the flag.
    """
    config_flags.DEFINE_config_file("config", None, help, flag_values=options, sys_argv=list(argv))
    flags.DEFINE_bool(
        "show_config", False, "Print every field of --config and do nothing.", flag_values=options
    )


def shown_config(options: flags.FlagValues) -> list[str]:
    """The fields of --config, one a line, as they can be given on the command line.

    Raises:
      UsageError: if there is no --config.
    """
    if options.config is None:
        raise UsageError(f"--show_config shows that of --config=NAME: {', '.join(recipes())}")
    return [f"--config.{line}" for line in list_fields(options.config.to_dict())]


def find_recipe(name: str) -> Path:
    """The file of a recipe: ``nano/base``, ``configs/nano/base.py``, or the path of a file.

    Raises:
      UsageError: if there is no such recipe; the message lists those that there are.
      OSError: if the file may not be read, which ml_collections does not say.
    """
    if Path(name).is_file():
        open(name, "rb").close()
        return Path(name)
    stem = re.sub(r"^configs/", "", name).removesuffix(".py")
    for folder in RECIPES:
        if (folder / f"{stem}.py").is_file():
            return folder / f"{stem}.py"
    raise UsageError(
        f"--config={name}: there is no such file or recipe; recipes: {', '.join(recipes())}"
    )


def recipes(*parts: str) -> list[str]:
    """Names of the recipes that ship with the package, of all folders or of ``parts``."""
    names = []
    for folder in RECIPES:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if not path.stem.startswith("_") and (not parts or name.split("/")[0] in parts):
                names.append(name)
    return names


def define_plan(options: flags.FlagValues, help: str) -> None:
    """Define ``--plan`` for the H100, and ``--plan=h200`` for another GPU of the compiler's; and
    ``--json`` beside it.
    """
    # A boolean flag's value may be left out; the parser reads "true" as the first target.
    parser = _TargetParser(list(compiler.TARGETS))
    flag = flags.Flag(parser, None, "plan", None, help, boolean=True)
    flags.DEFINE_flag(flag, options)
    flags.DEFINE_bool(
        "json", False, "With --plan, print all of it as one JSON object.", flag_values=options
    )


class _TargetParser(flags.EnumParser):
    """The name of a GPU; "true" stands for the first, where none is given."""

    def parse(self, argument: str) -> str:
        return super().parse(self.enum_values[0] if argument == "true" else argument)


def _find_checkpoint(options: flags.FlagValues) -> None:
    """Let --checkpoint name one that ships with the package: nano, nano-base, nano-mid."""
    if "checkpoint" in options and options["checkpoint"].value:
        options["checkpoint"].value = str(nano.find_checkpoint(options["checkpoint"].value))


def _notes(flag: flags.Flag) -> Iterator[str]:
    """The choices and the default of a flag, where it has any and its help does not begin so."""
    choices = getattr(flag.parser, "enum_values", None)
    if choices and not flag.help.startswith("<"):
        yield f"One of {', '.join(choices)}."
    if flag.default not in (None, "", False, []):
        yield f"[{str(flag.default_as_str).strip(chr(39))}]"


def _with_path(word: str) -> str:
    """``--config=NAME`` with the recipe's path in the place of its name."""
    match = re.fullmatch(r"(--?config=)([^:]*)(:.*)?", word)
    if not match:
        return word
    return f"{match[1]}{find_recipe(match[2])}{match[3] or ''}"


def _parse(
    options: flags.FlagValues,
    define_flags: DefineFlags,
    argv: list[str],
) -> None:
    """Define and parse the flags.

    Raises:
      UsageError: if a flag is unknown, lacks its value, or has a wrong one.
    """
    # ml_collections reads the name of the file before overrides; "--config NAME" becomes one word.
    joined = re.sub(r"(^|\0)(--?config)\0(?!-)", r"\1\2=", "\0".join(argv)).split("\0")
    words = [_with_path(word) for word in joined]
    # The module that ml_collections loads recipes as; an earlier one's get_config would answer for
    # a file that has none.
    sys.modules.pop("config_config", None)
    try:
        define_flags(options, words)
        rest = options(words)
    except HeliosError:
        raise
    except Exception as error:  # a recipe is a program, which raises anything
        raise UsageError(_explain(error, words)) from error
    _check_values(options)
    if "config" in options and not isinstance(options.config, ConfigDict | None):
        raise UsageError(
            f"--config: get_config() of the recipe must return a ConfigDict, not "
            f"{type(options.config).__name__}"
        )
    if len(rest) > 1:
        raise UsageError(f"unexpected argument {rest[1]!r}: every option has a name, see --help")


def _check_values(options: flags.FlagValues) -> None:
    """Refuse flags whose text is empty, as that of a variable of the shell that is not set: they
    would be taken for flags that were not given. And whole numbers that no machine counts to.

    Raises:
      UsageError: naming the flag.
    """
    for name in options:
        flag = options[name]
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        may_be_empty = name in MAY_BE_EMPTY or name.startswith("config.")
        if flag.present and "" in values and not may_be_empty:
            raise UsageError(f"--{name} is empty: give it a value, or leave it out")
        if any(type(value) is int and abs(value) >= 2**63 for value in values):
            raise UsageError(f"--{name} is a number of more than 18 digits, beyond all use")
        if any(isinstance(value, float) and math.isnan(value) for value in values):
            raise UsageError(f"--{name}=nan is no number")  # and in every range, for absl


def _explain(error: Exception, words: list[str]) -> str:
    """What is wrong with a command line."""
    if isinstance(error, KeyError | AttributeError):
        with contextlib.suppress(Exception):  # of a recipe that cannot be run
            if unknown := explain_unknown_field(words):
                return unknown
    message = str(error) or type(error).__name__
    if not isinstance(error, flags.Error | AttributeError | TypeError | ValueError | OSError):
        return f"the recipe of --config cannot be used: {type(error).__name__}: {message}"
    return f"{message}; see --help"


@contextlib.contextmanager
def _printable() -> Generator[None, None, None]:
    """Print what no encoding has, such as bytes in a file's name that are not UTF-8, as Python
    writes it: otherwise the line that says that all is done would end in a traceback.
    """
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # it has been closed
            stream.reconfigure(errors=before)


def _quiet_libraries() -> None:
    """Keep the libraries' logs to what concerns the user."""
    if "JAX_PLATFORMS" not in os.environ and compiler.has_plugin() and not _has_driver():
        # Otherwise the plugin complains at length before the CPU is taken.
        jax.config.update("jax_platforms", "cpu")
    devices.report_in_one_line()
    # JAX reports devices that are not there, and Orbax every step it takes.
    logging.getLogger("jax").setLevel(logging.WARNING)
    absl.logging.set_verbosity(absl.logging.WARNING)


def _has_driver() -> bool:
    """Whether there is an NVIDIA driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
