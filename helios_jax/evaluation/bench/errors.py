"""What can go wrong in HeliosBench for reasons that a person can mend."""


class BenchError(ValueError):
    """A video, result file or network that HeliosBench cannot use; the message says what to do."""
