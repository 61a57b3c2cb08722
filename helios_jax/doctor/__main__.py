"""``python -m helios_jax.doctor``: the same as ``helios-jax doctor``."""

import sys

from helios_jax.commands import main

sys.exit(main(["helios_jax", "doctor", *sys.argv[1:]]))
