"""``python -m helios_jax COMMAND``: the same as ``helios-jax COMMAND``."""

import sys

from helios_jax.commands import main

sys.exit(main())
