"""The base of every error that a person's files, arguments or machine can cause."""


class HeliosError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    Commands print the message on standard error and exit with :attr:`exit_status`; any other
    exception, save ``OSError``, is a fault of the program and keeps its traceback.
    """

    exit_status = 2


class InterruptedRunError(HeliosError):
    """The run was interrupted from the keyboard; the message says what is kept and how to go on."""

    exit_status = 130
