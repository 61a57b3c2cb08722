"""What can be done before the first request, and what can be let go."""

import dataclasses

import numpy as np
import pytest

from helios_jax import HeliosPipeline
from helios_jax.compile_cache import count_programs
from helios_jax.sampling.request import RequestError

from .conftest import TOY

PROMPT = "a red ball rolls over green grass"


@pytest.fixture(scope="module")
def shallow():
    """The toy with one layer, to compile quickly."""
    return HeliosPipeline.random(dataclasses.replace(TOY, transformer=dataclasses.replace(TOY.transformer, num_layers=1)))


def test_after_a_warmup_nothing_is_compiled(shallow):
    """Neither for the amplified first chunk, nor for later ones, for another prompt, seed or length of video."""
    shallow.warmup([PROMPT, "two blue squares"], num_frames=66)
    with count_programs() as programs:
        shallow.generate("a green cube", seed=4, num_frames=99)
    assert programs["needed"] == 0


def test_a_released_text_encoder_has_encoded_its_prompts(shallow):
    """The prompts named give the same video as before; of others one line says that it is too late."""
    pipeline = HeliosPipeline(shallow.config, shallow.params, shallow.tokenizer)
    options = dict(num_frames=33, output="latent")
    before = pipeline.generate(PROMPT, **options)
    pipeline.release_text_encoder([PROMPT, ""])
    assert set(pipeline.params) == {"transformer", "vae"}
    np.testing.assert_array_equal(pipeline.generate(f" {PROMPT}  ", **options), before)
    with pytest.raises(RequestError, match="the text encoder was released, and 'two blue squares' is not among the prompts"):
        pipeline.generate("two blue squares", **options)
