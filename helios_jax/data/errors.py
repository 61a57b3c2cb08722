"""What data can be refused for, and packages that only training data need."""

import importlib
from typing import Any

from helios_jax.errors import HeliosError


class DataError(HeliosError, ValueError):
    """Training data that cannot be used; the message says which, why, and what to do."""


class RecordError(DataError):
    """A record that cannot be read or is not what its index says: file, place and cause."""


class SkippedError(DataError):
    """An input that is left out of a dataset; the run goes on.

    Attributes:
      kind: what such inputs are counted as, as in "3 missing file".
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def import_extra(name: str) -> Any:
    """A module of a package that is installed by ``pip install 'helios-jax[train]'``.

    Recipes, ``--help`` and ``--plan`` need none of these packages, so they are imported where
    records are read or written.

    Raises:
      DataError: if the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise DataError(
            f"training data need the package {package}, which is not installed: "
            "pip install 'helios-jax[train]'"
        ) from error
