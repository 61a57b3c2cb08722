"""Convert PyTorch checkpoints: the same as ``helios-jax convert``."""

import sys

from helios_jax.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
