"""Layouts that people have, converted as PyTorch reads them or refused; docs/layouts.md."""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.checkpoint import CheckpointError, load_params
from helios_jax.checkpoint.convert import Summary, from_torch
from helios_jax.checkpoint.directory import open_checkpoint
from helios_jax.checkpoint.stored import torch_tensors
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.types import History
from tests.doc_tables import Row, accepted, check_table, refused
from tests.parity.compare import relative_error
from tests.parity.test_transformer import INDICES, inputs, torch_velocity

from .accepted_layouts import ACCEPTED
from .refused_layouts import REFUSED
from .toy_layouts import Layout, Toy

PAGE = "docs/layouts.md"
TIMES = np.array([742.0, 512.0], np.float32)
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


@functools.cache
def velocity(config):
    """Our transformer, compiled once for each geometry."""
    model = HeliosTransformer(config)

    def apply(params, latents, times, text, history):
        return model.apply({"params": params}, latents, times, text, history, frame_indices=INDICES)

    return jax.jit(apply)


@functools.cache
def expected_velocity(model: torch.nn.Module, channels: int) -> np.ndarray:
    """What PyTorch's transformer gives for the same inputs."""
    return torch_velocity(model, timestep=TIMES, **inputs(1, channels=channels))


def convert(layout: Layout, patch: pytest.MonkeyPatch, folder: str) -> Summary:
    patch.chdir(folder)
    patch.setenv("HF_HUB_CACHE", "cache")
    return from_torch(layout.write(), "out", init_from_wan=layout.init_from_wan, progress=False)


def difference_from(made: Toy) -> float:
    """The largest difference of what ``out`` holds from PyTorch's models: of velocities, relative
    to the largest, and of the tensors of VAE and text encoder.
    """
    opened = open_checkpoint("out")
    params = load_params("out", "transformer", lambda path: jnp.float32)
    channels = opened.config.transformer.in_channels
    given = inputs(1, channels=channels)
    arguments = (given["latents"], TIMES, given["text"])
    history = History(*map(jnp.asarray, given["history"]))
    found = velocity(opened.config.transformer)(params, *map(jnp.asarray, arguments), history)
    differences = [relative_error(found, expected_velocity(made.transformer, channels))]
    for component in ("vae", "text_encoder"):
        tensors = getattr(made, component).state_dict()
        for name, tensor in torch_tensors(opened, component):
            values = tensors[name].to(torch.float32).numpy()
            differences.append(float(np.abs(tensor.read().astype(np.float32) - values).max()))
    return max(differences)


@functools.cache
def outcome(layout: Layout) -> tuple[float, str] | str:
    """The difference and the notes of a conversion, or the line that refuses it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        try:
            summary = convert(layout, patch, folder)
        except CheckpointError as error:
            return str(error)
        assert layout.made is not None, "this should be refused"
        return difference_from(layout.made()), "; ".join(summary.notes)


@pytest.mark.parametrize("layout", ACCEPTED, ids=[layout.kind for layout in ACCEPTED])
def test_it_is_converted_as_pytorch_reads_it(layout):
    found = outcome(layout)
    assert not isinstance(found, str), found
    assert found[0] <= 1e-5


@pytest.mark.parametrize("layout", REFUSED, ids=[layout.kind for layout in REFUSED])
def test_it_is_refused_in_one_line_that_ends_with_what_it_is(layout):
    line = outcome(layout)
    assert isinstance(line, str), line
    assert "\n" not in line
    assert len(line) < 800
    assert line.endswith("]") or "is not there" in line


def test_the_page_has_what_was_found():
    rows = []
    for layout in (*ACCEPTED, *REFUSED):
        found = outcome(layout)
        told = refused(found) if isinstance(found, str) else accepted(*found)
        rows.append(Row(layout.kind, layout.example, told))
    assert len(rows) >= 60
    check_table(PAGE, "layouts", rows)
