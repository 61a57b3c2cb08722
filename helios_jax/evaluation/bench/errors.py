"""What can go wrong in HeliosBench for reasons that a person can mend."""

from helios_jax.errors import HeliosError


class BenchError(HeliosError, ValueError):
    """A video, result file or network that HeliosBench cannot use; the message says what to do."""
