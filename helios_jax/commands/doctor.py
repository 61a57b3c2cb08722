"""Look over this machine: run it first, it takes less than two minutes.

  helios-jax doctor
  python -m helios_jax.doctor --json

It says whether versions, driver and device go together, and names a GPU that is there and unused;
checks every kernel against its plain version on small shapes, forward and backward; measures a few
rates; and tells which models fit. A kernel that fails is not used from then on, as long as the
versions stay (--config.transformer.kernels=auto, the default, consults what was found).

Exit status: 0 if nothing is wrong, 1 if something is.
"""

import json
import runpy
import time
from collections.abc import Iterator, Sequence

from absl import flags

from helios_jax import nano
from helios_jax.checkpoint.directory import load_config
from helios_jax.commands.cli import RECIPES, run_command
from helios_jax.config import HeliosConfig, from_dict
from helios_jax.doctor.fits import check_fits
from helios_jax.doctor.kernels import check_kernels
from helios_jax.doctor.machine import check_machine
from helios_jax.doctor.rates import measure_rates
from helios_jax.doctor.verdict import Verdict
from helios_jax.errors import HeliosError


class WrongError(HeliosError):
    """Something is wrong with this machine; the table says what."""

    exit_status = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__ or "", define_flags, run, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_bool("json", False, "Print one JSON object a line.", flag_values=options)
    flags.DEFINE_float(
        "budget_s", 90.0, "Seconds after which no further kernel is checked.", flag_values=options
    )
    flags.DEFINE_integer(
        "tokens",
        384,
        "Tokens of the shapes on which kernels are checked.",
        lower_bound=16,
        flag_values=options,
    )


def run(options: flags.FlagValues) -> None:
    """Print every verdict as soon as it is known.

    Raises:
      WrongError: if any is that something is wrong.
    """
    wrong = []
    for verdict in look(options.tokens, options.budget_s):
        print(json.dumps(verdict._asdict()) if options.json else verdict, flush=True)
        if verdict.status == "wrong":
            wrong.append(verdict.check)
    if wrong:
        raise WrongError(f"{len(wrong)} of the checks found something wrong: {', '.join(wrong)}")
    if not options.json:
        print("nothing is wrong")


def look(tokens: int, budget: float) -> Iterator[Verdict]:
    """Every check, in order; without a device only those that need none."""
    deadline = time.monotonic() + budget
    has_device = True
    for verdict in check_machine():
        has_device = has_device and not (
            verdict.check == "device" and "no device" in verdict.detail
        )
        yield verdict
    if not has_device:
        yield Verdict("kernels, rates, memory", "not run", "there is no device")
        return
    yield from check_kernels(tokens, deadline)
    yield from measure_rates()
    yield from check_fits(known_models())


def known_models() -> dict[str, HeliosConfig]:
    """The configurations of helios-nano and of the recipes that ship with the package, by name."""
    found = {}
    for folder in sorted(nano.ASSETS.glob("nano*")):
        found[folder.name] = load_config(folder)
    for folder in RECIPES:
        for file in sorted(folder.glob("*.py")):
            config = runpy.run_path(str(file))["get_config"]()
            found[file.stem] = from_dict(HeliosConfig, config)
    return found
