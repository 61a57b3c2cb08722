"""Adapters in a pipeline: merged when they are wanted, and recorded with what is made."""

import jax
import numpy as np
import pytest

from helios_jax import HeliosPipeline, checkpoint, make_request
from helios_jax.checkpoint import AdapterFile, CheckpointError
from helios_jax.checkpoint.convert import from_torch, to_diffusers
from helios_jax.sampling.request import RequestError
from helios_jax.sampling.state import load_state, save_state
from tests.toy_adapters import save_adapter

from .conftest import TOY

PROMPT = "a red ball rolls over green grass"


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    """A checkpoint of the toy pipeline, and two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    checkpoint.save(folder / "base", TOY, pipeline.params, pipeline.tokenizer)
    save_adapter(folder / "paint.safetensors", TOY)
    save_adapter(folder / "grain.safetensors", TOY, rank=3, seed=1)
    return folder


@pytest.fixture(scope="module")
def painted(pipeline, folder):
    return pipeline.with_adapter(folder / "paint.safetensors", strength=0.5)


def assert_same_params(found, expected, within):
    """Every leaf of the transformers."""
    pairs = (found.params["transformer"], expected.params["transformer"])
    for a, b in zip(*map(jax.tree.leaves, pairs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=within)


def test_an_adapter_makes_what_the_merged_conversion_makes(painted, pipeline, folder, tmp_path):
    """The same weights, and the same latents."""
    to_diffusers(folder / "base", tmp_path / "torch", progress=False)
    adapters = [AdapterFile(folder / "paint.safetensors", 0.5)]
    from_torch(tmp_path / "torch", tmp_path / "merged", adapters=adapters, progress=False)
    merged = HeliosPipeline.from_checkpoint(tmp_path / "merged").replace(config=TOY)
    assert_same_params(painted, merged, within=1e-6)
    ours, theirs, before = (
        made.generate(PROMPT, output="latent") for made in (painted, merged, pipeline)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert np.abs(ours - before).max() > 0.1


@pytest.mark.parametrize("stream_blocks", [False, True])
def test_a_checkpoint_loads_with_adapters_in_their_order(pipeline, folder, stream_blocks):
    adapters = [
        AdapterFile(folder / "paint.safetensors", 0.5),
        AdapterFile(folder / "grain.safetensors", -1.5),
    ]
    loaded = HeliosPipeline.from_checkpoint(
        folder / "base", adapters=adapters, stream_blocks=stream_blocks
    )
    again = pipeline
    for file in adapters:
        again = again.with_adapter(file.path, strength=file.strength)
    assert loaded.adapters == again.adapters
    assert_same_params(loaded, again, within=1e-6)


def test_several_strengths_are_taken_from_one_pipeline(pipeline, painted, folder):
    """It is not changed, and shares what an adapter leaves as it is."""
    kernel = lambda made: np.asarray(made.params["transformer"]["blocks"]["ffn"]["up"]["kernel"])
    whole = pipeline.with_adapter(folder / "paint.safetensors")
    none = pipeline.with_adapter(folder / "paint.safetensors", strength=0.0)
    half = kernel(painted) - kernel(pipeline)
    assert np.abs(half).max() > 0.01
    np.testing.assert_allclose(kernel(whole) - kernel(pipeline), 2 * half, atol=1e-6)
    np.testing.assert_array_equal(kernel(none), kernel(pipeline))
    assert painted.params["vae"] is pipeline.params["vae"]
    untouched = lambda made: made.params["transformer"]["patch_embedding"]["bias"]
    assert untouched(painted) is untouched(pipeline)


def test_an_adapter_comes_before_quantization(pipeline, painted, folder):
    with pytest.raises(CheckpointError, match="merge adapters first, then quantize"):
        pipeline.quantized("int8").with_adapter(folder / "paint.safetensors")
    assert painted.quantized("int8").adapters == painted.adapters


def test_a_strength_that_is_no_number_is_refused(pipeline, folder):
    with pytest.raises(CheckpointError, match="strength is nan, and not a number between"):
        pipeline.with_adapter(folder / "paint.safetensors", strength=float("nan"))


def test_a_video_goes_on_with_the_adapters_it_was_made_with_only(
    pipeline, painted, folder, tmp_path
):
    """The saved state names them, with digits of their content."""
    states = []
    keep = lambda record: states.append(record.state)
    next(painted.stream(PROMPT, num_frames=66, output="latent", on_chunk=keep))
    save_state(tmp_path / "state", states[0])
    state = load_state(tmp_path / "state")
    (record,) = state.request.adapters
    assert record.startswith("paint.safetensors:0.5 (")
    assert len(list(painted.resume(state, output="latent"))) == 1
    stronger = pipeline.with_adapter(folder / "paint.safetensors", strength=0.75)
    for other, named in ((pipeline, "no adapter"), (stronger, r"paint\.safetensors:0\.75")):
        with pytest.raises(RequestError, match=rf"made with paint.*, and this model has {named}"):
            other.resume(state)


def test_a_request_for_other_adapters_is_refused(painted):
    request = make_request(TOY, adapters=["grain.safetensors:1.0 (0123456789abcdef)"])
    with pytest.raises(RequestError, match="the request was made with grain"):
        painted.stream(PROMPT, request)
