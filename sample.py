"""Make videos: the same as ``helios-jax sample``."""

import sys

from helios_jax.commands.sample import main

if __name__ == "__main__":
    sys.exit(main())
