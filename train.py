"""Train by a recipe: the same as ``helios-jax train``."""

import sys

from helios_jax.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
