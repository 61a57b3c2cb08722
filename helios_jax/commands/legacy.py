"""Global flags; goes when every command defines its own."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import absl.logging
import jax
from absl import app, flags

from helios_jax.memory import compiler as deviceless


def run_script(main: Callable[[], None], errors: tuple[type[Exception], ...]) -> NoReturn:
    """Parse the flags and call ``main``.

    Args:
      main: does the job; takes its input from flags.
      errors: what bad input raises; any other exception keeps its traceback.
    """
    if "JAX_PLATFORMS" not in os.environ and deviceless.has_plugin() and not _has_driver():
        jax.config.update(
            "jax_platforms", "cpu"
        )  # or the plugin complains at length before the CPU is taken
    logging.getLogger("jax").setLevel(
        logging.WARNING
    )  # absl shows what is logged for information, and JAX tells which devices are not there
    app.run(lambda argv: _guarded(main, argv, errors), flags_parser=_parse)


def _has_driver() -> bool:
    """Whether there is an NVIDIA driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def plan_flag(help: str) -> flags.Flag:
    """``--plan`` for the H100, ``--plan=h200`` for another of
    :data:`~helios_jax.kernels.deviceless.TARGETS`.
    """
    return flags.Flag(
        _TargetParser(list(deviceless.TARGETS)), None, "plan", None, help, boolean=True
    )  # boolean: a value may be left out


class _TargetParser(flags.EnumParser):
    """The name of a GPU; what stands for it where none is given is "true"."""

    def parse(self, argument: str) -> str:
        return super().parse(self.enum_values[0] if argument == "true" else argument)


def complain(message: str) -> None:
    """One line on stderr, in the script's name."""
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(message.split())}", file=sys.stderr)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:  # those of --config.field=value are not flags.Error
        complain(f"{str(error) or type(error).__name__}; see --help")
        sys.exit(2)


def _guarded(
    main: Callable[[], None], argv: list[str], errors: tuple[type[Exception], ...]
) -> None:
    absl.logging.get_absl_logger().setLevel(logging.WARNING)  # Orbax tells of every step it takes
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # unwinds, so that what is half written is removed
    try:
        if len(argv) > 1:
            complain(f"unexpected argument {argv[1]!r}: every option has a name, see --help")
            sys.exit(2)
        main()
    except errors as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        complain("interrupted; nothing was written")
        sys.exit(130)
