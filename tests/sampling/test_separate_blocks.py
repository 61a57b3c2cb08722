"""A pipeline whose blocks are one array a layer, as they are where an accelerator computes."""

import jax
import numpy as np
import pytest

from helios_jax import HeliosPipeline, checkpoint
from helios_jax.models.layer_stack import is_separate, separate_layers
from helios_jax.models.vae_layers import kernels_by_output
from helios_jax.sampling import loading, model
from helios_jax.types import tree_bytes
from tests.toy_adapters import save_adapter

from .conftest import TOY


@pytest.fixture
def accelerator(monkeypatch):
    """The layout of an accelerator on a CPU."""
    for module in (loading, model):
        monkeypatch.setattr(module, "separates_blocks", lambda: True)
        monkeypatch.setattr(module, "turns_kernels", lambda: True)


@pytest.fixture
def folder(pipeline, tmp_path):
    path = tmp_path / "toy"
    checkpoint.save(path, TOY, pipeline.params, pipeline.tokenizer)
    return path


def frames(pipeline, **options):
    return pipeline.generate("a red ball", num_frames=33, output="float32", **options)


@pytest.mark.usefixtures("accelerator")
def test_it_makes_the_frames_of_stacked_blocks(pipeline, folder):
    loaded = HeliosPipeline.from_checkpoint(folder, compile_cache="")
    assert is_separate(loaded.params["transformer"]["blocks"])
    assert not is_separate(pipeline.params["transformer"]["blocks"])
    turned = kernels_by_output(pipeline.params["vae"])
    assert jax.tree.structure(loaded.params["vae"]) == jax.tree.structure(turned)
    np.testing.assert_allclose(frames(loaded), frames(pipeline), atol=1e-4)


@pytest.mark.usefixtures("accelerator")
def test_random_weights_are_those_of_a_stack(pipeline):
    made = HeliosPipeline.random(TOY).params["transformer"]["blocks"]
    expected = separate_layers(pipeline.params["transformer"]["blocks"])
    jax.tree.map(np.testing.assert_array_equal, made, expected)


@pytest.mark.usefixtures("accelerator")
def test_loading_never_holds_a_weight_twice(folder):
    """At every leaf the device holds what has been loaded, once, and one leaf more at most."""
    before = sum(array.nbytes for array in jax.live_arrays())
    loaded = 0
    excess = []

    def progress(size):
        nonlocal loaded
        loaded += size
        held = sum(array.nbytes for array in jax.live_arrays()) - before
        excess.append(held - loaded)

    params = checkpoint.load_params(folder, "transformer", progress=progress, separate_blocks=True)
    assert loaded == tree_bytes(params)
    assert max(excess) <= 0


@pytest.mark.usefixtures("accelerator")
def test_blocks_move_to_host_memory_as_a_stack(pipeline, folder):
    """From where a loop over them copies each when it is used."""
    loaded = HeliosPipeline.from_checkpoint(folder, compile_cache="").with_streamed_blocks()
    blocks = loaded.params["transformer"]["blocks"]
    assert not is_separate(blocks)
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(blocks)} == {"pinned_host"}
    expected = pipeline.params["transformer"]["blocks"]
    jax.tree.map(np.testing.assert_array_equal, blocks, expected)


@pytest.mark.usefixtures("accelerator")
def test_adapters_are_merged_layer_by_layer(pipeline, folder, tmp_path):
    save_adapter(tmp_path / "paint.safetensors", TOY)
    loaded = HeliosPipeline.from_checkpoint(folder, compile_cache="")
    adapted = loaded.with_adapter(tmp_path / "paint.safetensors").params["transformer"]
    expected = pipeline.with_adapter(tmp_path / "paint.safetensors").params["transformer"]
    expected = {**expected, "blocks": separate_layers(expected["blocks"])}
    jax.tree.map(np.testing.assert_array_equal, adapted, expected)


def test_guidance_runs_both_prompts(guided):
    """Keys and values of one array a layer are halved as those of a stack are."""
    transformer = guided.params["transformer"]
    blocks = separate_layers(transformer["blocks"])
    separate = guided.replace(
        params={**guided.params, "transformer": {**transformer, "blocks": blocks}}
    )
    interval = dict(guidance_interval=(0.5, 1.0))
    np.testing.assert_allclose(frames(separate, **interval), frames(guided, **interval), atol=1e-4)
