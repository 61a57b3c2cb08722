"""Tests that need a GPU: ``JAX_PLATFORMS=cuda pytest tests/gpu``. Elsewhere pytest skips them."""

import jax
import pytest


def pytest_collection_modifyitems(items):
    """Skip this folder's tests where there is no GPU."""
    here = __file__.rpartition("/")[0]
    if jax.default_backend() == "gpu":
        return
    skip = pytest.mark.skip(reason="needs a GPU: JAX_PLATFORMS=cuda pytest tests/gpu")
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(skip)
