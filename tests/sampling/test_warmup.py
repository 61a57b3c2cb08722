"""What can be done before the first request, and what can be let go."""

import dataclasses

import jax
import numpy as np
import pytest

from helios_jax import HeliosPipeline, checkpoint
from helios_jax.compile_cache import count_programs
from helios_jax.sampling.request import RequestError

from .conftest import TOY

PROMPT = "a red ball rolls over green grass"


@pytest.fixture(scope="module")
def shallow():
    """The toy with one layer, to compile quickly."""
    return HeliosPipeline.random(
        dataclasses.replace(TOY, transformer=dataclasses.replace(TOY.transformer, num_layers=1))
    )


def test_after_a_warmup_nothing_is_compiled(shallow):
    """Neither for the amplified first chunk, nor for later ones, for another prompt, seed or length
    of video.
    """
    shallow.warmup([PROMPT, "two blue squares"], num_frames=66)
    with count_programs() as programs:
        shallow.generate("a green cube", seed=4, num_frames=99)
    assert programs["needed"] == 0


def test_a_released_text_encoder_has_encoded_its_prompts(shallow):
    """Its prompts give the same video as before; of others one line says that it is too late."""
    options = dict(num_frames=33, output="latent")
    before = shallow.generate(PROMPT, **options)
    pipeline = shallow.with_text_encoder_released([PROMPT, ""])
    assert set(pipeline.params) == {"transformer", "vae"}
    assert set(shallow.params) == {"transformer", "vae", "text_encoder"}
    np.testing.assert_array_equal(pipeline.generate(f" {PROMPT}  ", **options), before)
    with pytest.raises(
        RequestError,
        match="the text encoder was released, and 'two blue squares' is not among the prompts",
    ):
        pipeline.generate("two blue squares", **options)


def test_blocks_streamed_from_host_memory_make_the_same_video(shallow, tmp_path):
    """Moved there, or read there from a checkpoint without a stop on the device; nothing else is
    there.
    """
    options = dict(num_frames=33, output="latent")
    checkpoint.save(tmp_path / "toy", shallow.config, shallow.params, shallow.tokenizer)
    moved = shallow.with_streamed_blocks()
    read = HeliosPipeline.from_checkpoint(
        tmp_path / "toy", prompts=[PROMPT, ""], stream_blocks=True
    )
    for pipeline in (moved, read):
        in_host_memory = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, leaf in jax.tree_util.tree_leaves_with_path(pipeline.params)
            if leaf.sharding.memory_kind == "pinned_host"
        ]
        assert len(in_host_memory) == len(jax.tree.leaves(shallow.params["transformer"]["blocks"]))
        assert all(path.startswith("transformer/blocks/") for path in in_host_memory)
        np.testing.assert_array_equal(
            pipeline.generate(PROMPT, **options), shallow.generate(PROMPT, **options)
        )
