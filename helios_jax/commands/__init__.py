"""The commands of helios-jax, each a module of this package with a ``main(argv)``.

``helios-jax sample --help`` and ``python -m helios_jax sample --help`` are the same, and so is
``python sample.py --help`` in a clone.
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

# Before JAX is imported: XLA's log of slow compilations and of this machine's processor is not for
# whoever makes a video. Its errors reach Python as exceptions all the same.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COMMANDS = {
    "doctor": "what this machine has, whether its kernels are right, and what fits",
    "sample": "make videos from prompts, an image or a video",
    "train": "train or distil a model by a recipe",
    "convert": "PyTorch checkpoints to helios-jax checkpoints, and back",
    "encode": "videos and captions to records of latents and text features",
    "export": "a training run to a checkpoint, or to adapters",
    "ode-pairs": "trajectories of a teacher, for its student to begin on",
    "nano-course": "helios-nano from nothing, part after part",
    "world": "clips and captions of the procedural world",
    "plan": "memory and time that a request or a training step takes on a GPU that is not there",
    "evaluate": "read what a model of the procedural world makes",
    "bench": "make, score and compare videos as HeliosBench does",
    "demo": "a page where a video answers while it is made",
    "completion": "completion of commands and flags in bash, zsh and fish",
}
"""What each command does; its module has its name, with underscores."""


READER_GONE = 141
"""Exit status where nobody reads what is printed: a shell's, for a process that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    Args:
      argv: the program's name and its arguments; by default those of the process.

    Returns:
      The exit status: 0, or 2 for an unknown command and for what the command cannot use.
    """
    of_process = argv is None
    open_closed_streams()
    try:
        status = _main(list(sys.argv if argv is None else argv))
        sys.stdout.flush()
    except OSError as error:  # of what is printed without a command
        drop_unprinted()
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        with contextlib.suppress(OSError):
            print(f"helios-jax: cannot print: {error.strerror or error}", file=sys.stderr)
        return 2
    if of_process:
        # Nothing is left to clean up, and Python has no word for Ctrl-C while it ends.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return status


def _main(argv: list[str]) -> int:
    """The exit status of :func:`main`."""
    name = argv[1] if len(argv) > 1 else "--help"
    if name in ("--help", "-help", "-h", "help"):
        print(_overview())
        return 0
    if name == "--version":
        from helios_jax import __version__

        print(f"helios-jax {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"helios-jax: unknown command {name!r}: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"helios_jax.commands.{name.replace('-', '_')}")
    except KeyboardInterrupt:  # JAX takes a second or two
        print(f"helios-jax {name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return module.main([f"helios-jax {name}", *argv[2:]])


def drop_unprinted() -> bool:
    """Let what cannot be printed go nowhere, for Python would try again as it ends: nobody reads
    standard output any more, as in ``helios-jax plan --help | head``, or its disk is full.

    Returns:
      Whether standard output can be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    return True


def open_closed_streams() -> None:
    """Lead standard streams that were closed, as a shell's ``>&-`` does, nowhere.

    Otherwise the next file that is opened would take the place of one, and what a library or a
    child process prints would be written into it.
    """
    with contextlib.suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _overview() -> str:
    """The commands, a line each."""
    lines = ["usage: helios-jax COMMAND [--flag=value ...]", "", "Commands:"]
    lines += [f"  {name:<11}{what}" for name, what in COMMANDS.items()]
    lines += ["", "helios-jax COMMAND --help tells the flags of a command, with examples."]
    return "\n".join(lines)
