"""A new field of a request is one line: flags, states, resumed videos and memory plans carry it."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from helios_jax.commands.request_flags import define_request_flags, read_request_flags
from helios_jax.fields import Share
from helios_jax.memory import compiler
from helios_jax.memory.report import Program, program_memory
from helios_jax.sampling import request
from helios_jax.sampling.fields import request_field
from helios_jax.sampling.request import Request, RequestError, make_request, read_request
from helios_jax.sampling.state import load_state, save_state

from .conftest import TOY


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharperRequest(Request):
    """The request as it is after somebody added a field."""

    sharpness: Share = request_field("How sharp the frames are.", default=0.5)


@pytest.fixture(autouse=True)
def add_field(monkeypatch):
    monkeypatch.setattr(request, "Request", SharperRequest)


def test_it_has_a_flag():
    """With its help, its type and its range."""
    options = flags.FlagValues()
    define_request_flags(options)
    assert options["sharpness"].help == "How sharp the frames are."
    options(["sample", "--sharpness=0.25", "--steps=2,1,1"])
    fields = read_request_flags(options)
    assert fields == {"sharpness": 0.25, "steps": (2, 1, 1)}
    assert read_request(TOY, fields).sharpness == 0.25
    with pytest.raises(RequestError, match=r"sharpness=1\.5 must be at least 0 and at most 1"):
        make_request(TOY, sharpness=1.5)


def test_a_saved_state_and_what_is_resumed_from_it_have_it(pipeline, tmp_path):
    states = []
    keep = lambda record: states.append(record.state)
    wanted = make_request(TOY, num_frames=66, sharpness=0.25)
    next(pipeline.stream("a red ball", wanted, output="latent", on_chunk=keep))
    save_state(tmp_path / "state.safetensors", states[0])
    state = load_state(tmp_path / "state.safetensors")
    assert state.request == wanted
    assert state.request.sharpness == 0.25
    list(pipeline.resume(state, num_frames=67, output="latent", on_chunk=keep))
    assert [state.request.sharpness for state in states] == [0.25, 0.25, 0.25]
    assert states[-1].request.num_frames == 67


def programs(asked):
    """A program whose size tells the field."""
    rows = jax.ShapeDtypeStruct((int(4096 * asked.sharpness), 256), jnp.float32)
    return {"rows": Program(jax.jit(jnp.sin), (rows,))}


def test_the_process_that_plans_has_it(monkeypatch):
    """The request travels whole."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if reason := compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")
    monkeypatch.setitem(sys.modules, SharperRequest.__module__, sys.modules[__name__])
    wanted = make_request(TOY, sharpness=0.25)
    [(_, memory)] = program_memory(programs, (wanted,), "h100")
    assert memory.arguments == 1024 * 256 * 4
