"""Tell what memory a request or a training step takes on a GPU, and predict how long, on a machine
that has none.

  helios-jax plan sample --config helios_distilled
  helios-jax plan sample --gpu=h200 --checkpoint checkpoints/helios-distilled --num_frames 1440
  helios-jax plan train --config train/stage2_init

It takes the flags of the command that it names, and is the same as that command with --plan=GPU.
The GPU is one of h100, h200, a100, l40s, b200 and rtx5090; --json prints everything as one object.
Time is a prediction, from the kernels of the compiled programs and rates that are assumed and
printed. The extra `plan` has the compiler (pip install 'helios-jax[plan]'); without it an estimate
of the memory is printed.

Exit status: 0 if it fits, 2 if it does not or the request cannot be served.
"""

import sys
from collections.abc import Sequence

from helios_jax.commands import sample, train
from helios_jax.commands.cli import complain, wants_help

PLANNED = {"sample": sample.main, "train": train.main}
"""The commands that have a plan."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named command with ``--plan``."""
    argv = list(sys.argv if argv is None else argv)
    program, *rest = argv
    if not rest or wants_help(argv[:2]):
        print((__doc__ or "").strip())
        return 0
    name, *words = rest
    if name not in PLANNED:
        complain(f"{name!r} has no plan; commands that have: {', '.join(PLANNED)}", program)
        return 2
    gpu = [word.removeprefix("--gpu=") for word in words if word.startswith("--gpu=")]
    others = [word for word in words if not word.startswith("--gpu=")]
    return PLANNED[name]([f"{program} {name}", *others, f"--plan={gpu[-1] if gpu else 'h100'}"])
