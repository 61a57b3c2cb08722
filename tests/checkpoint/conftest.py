"""A checkpoint of toy size, which several files of tests read or damage."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint import save
from helios_jax.models.tokenizer import toy_tokenizer

from .tiny import CONFIG, random_params


@pytest.fixture(scope="module")
def params():
    """Trees of every component."""
    dtypes = {"transformer": jnp.bfloat16, "vae": np.float32, "text_encoder": jnp.bfloat16}
    return {
        component: random_params(CONFIG, component, dtype) for component, dtype in dtypes.items()
    }


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    """A whole checkpoint of them."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(path, CONFIG, params, toy_tokenizer(64))
    return path


@pytest.fixture
def copy(saved, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")
