"""Calls from Python with the wrong things: one line that says which."""

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.sampling.request import RequestError
from tests.killing import start

CALLS = {
    "number": ("stream(5)", "the prompt must be text, not int"),
    "none": ("stream(None)", "the prompt must be text, not NoneType"),
    "bytes": ("stream(b'ball')", "a prompt must be text, not int"),
    "numbers": ("stream(['ball', 5])", "a prompt must be text, not int"),
    "empty list": ("stream([])", "the prompt is empty"),
    "array": ("stream(numpy.zeros(3))", "the prompt must be text, not ndarray"),
    "misspelt": ("stream('ball', sead=1)", "there is no option sead; did you mean seed?"),
    "generate": ("generate('ball', sweet=1)", "there is no option sweet"),
    "seed": ("stream('ball', seed='a')", "seed='a' must be of type int"),
    "frames": ("stream('ball', num_frames=0.5)", "num_frames=0.5 must be of type int"),
    "output": ("stream('ball', output='png')", "output='png' must be one of"),
    "resume": ("resume(None, sead=1)", "there is no option sead; known here: blend"),
    "not of resume": ("resume(None, seed=1)", "there is no option seed"),
}


def call_all(expressions, path):
    """The errors of the calls, a line each, in a process without checks of annotations."""
    from helios_jax import HeliosPipeline
    from tests.sampling.conftest import TOY

    pipeline = HeliosPipeline.random(TOY)
    lines = []
    for expression in expressions:
        try:
            eval(f"pipeline.{expression}", {"pipeline": pipeline, "numpy": np})
        except Exception as error:
            lines.append(f"{type(error).__name__}: {error}")
        else:
            lines.append("no error")
    path.write_text("\n".join(lines))


def test_calls_with_the_wrong_things_are_refused_in_one_line(tmp_path, record_property):
    record_property("cases", len(CALLS))
    process = start(call_all, [call for call, _ in CALLS.values()], tmp_path / "errors")
    process.join()
    lines = (tmp_path / "errors").read_text().splitlines()
    for line, (call, message) in zip(lines, CALLS.values(), strict=True):
        assert line.startswith("RequestError: "), call
        assert message in line, call


@pytest.mark.parametrize("shape", [(0, 9, 8, 8, 4), (1, 0, 8, 8, 4), (1, 9, 0, 8, 4)])
def test_empty_latents_are_refused(pipeline, shape):
    with pytest.raises(RequestError, match="are empty"):
        pipeline.decode(jnp.zeros(shape))
    with pytest.raises(RequestError, match="are not whole chunks"):
        pipeline.decode_video(np.zeros(shape, np.float32))
