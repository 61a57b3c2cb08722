"""What the user's API promises."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from helios_jax import HeliosPipeline, checkpoint, progress
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.sampling.request import RequestError
from helios_jax.sampling.timing import Stopwatch

PROMPT = "a red ball rolls over green grass"


def count_compilations(run):
    """Programs compiled while ``run`` runs."""
    compiled = []
    listen = lambda event, seconds, **_: (
        compiled.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
    )
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(compiled)


@pytest.mark.slow
def test_second_request_of_the_same_shape_compiles_nothing(pipeline):
    """Other prompt, other seed, same shape: every program is there already, and one chunk program
    serves all chunks but the first.
    """
    assert count_compilations(lambda: jax.jit(lambda: 1 + 1)()) > 0
    pipeline.generate(PROMPT, num_frames=70)
    assert (
        count_compilations(lambda: pipeline.generate("two blue squares", num_frames=99, seed=5))
        == 0
    )


def test_device_memory_does_not_grow_with_the_number_of_chunks(pipeline):
    """After each chunk as many bytes are alive as after the one before it."""
    alive = []
    for frames in pipeline.stream(PROMPT, num_frames=33 * 5):
        del frames
        gc.collect()
        alive.append(sum(array.nbytes for array in jax.live_arrays()))
    assert len(alive) == 5
    assert len(set(alive[1:])) == 1


def test_a_pipeline_is_not_changed(guided):
    """What it is made to be is another one, which shares the rest."""
    rounded = guided.quantized("int8", round_activations=True)
    assert rounded.config.transformer.round_activations
    assert not guided.config.transformer.round_activations
    assert rounded.params["vae"] is guided.params["vae"]
    kernel = lambda pipeline: pipeline.params["transformer"]["blocks"]["ffn"]["up"]["kernel"]
    assert (kernel(guided).dtype, kernel(rounded).dtype) == (jnp.float32, jnp.int8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        guided.params = {}


def test_generate_returns_exactly_the_frames_asked_for(pipeline):
    """The last chunk is cut; every frame is there and is 8-bit."""
    frames = pipeline.generate(PROMPT, num_frames=40)
    assert frames.shape == (1, 40, 64, 128, 3)
    assert frames.dtype == np.uint8


def test_stream_yields_whole_chunks(pipeline):
    """A stream is untrimmed: 33 frames a chunk."""
    assert [chunk.shape[1] for chunk in pipeline.stream(PROMPT, num_frames=40)] == [33, 33]


@pytest.mark.slow
def test_a_video_does_not_depend_on_its_batch(pipeline):
    """Video b of a batch is that of seed + b made alone."""
    both = pipeline.generate(PROMPT, batch=2, seed=3, num_frames=34, output="latent")
    alone = pipeline.generate(PROMPT, seed=4, num_frames=34, output="latent")
    np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 0.1


def test_supplied_noise_takes_the_place_of_the_seed(pipeline):
    """The noise drawn from a seed, given by hand, makes the video of that seed."""
    keys = jax.vmap(jax.random.key)(jnp.array([7]))
    noise = [draw_chunk_noise(keys, chunk, (9, 8, 16, 4), 3, 1 / 3) for chunk in range(2)]
    given = pipeline.generate(PROMPT, noise=noise, num_frames=60, output="latent")
    np.testing.assert_allclose(
        given,
        pipeline.generate(PROMPT, seed=7, num_frames=60, output="latent"),
        rtol=1e-4,
        atol=1e-5,
    )


def test_text_cache_is_as_long_as_the_prompt_needs(pipeline):
    """Padding is one row with a logit offset, so short prompts have short caches."""
    assert (
        pipeline.encode_prompts([PROMPT]).key.shape[2]
        == 64
        < pipeline.config.text_encoder.max_sequence_length
    )


@pytest.mark.slow
def test_prompt_matters_and_guidance_leads_away_from_the_negative(guided):
    """Positive and negative prompts change the result, apart."""
    options = dict(num_frames=33, output="latent")
    first = guided.generate(PROMPT, negative_prompt="grey", **options)
    assert (
        np.abs(first - guided.generate("two blue squares", negative_prompt="grey", **options)).max()
        > 1e-4
    )
    assert np.abs(first - guided.generate(PROMPT, negative_prompt="bright", **options)).max() > 1e-4


@pytest.mark.slow
def test_stopwatch_tells_the_stages_apart(guided):
    """Each pyramid stage has its own seconds, which add up to the transformer's; compilation is
    apart, and done once for all stopwatches.
    """
    options = dict(num_frames=33, output="latent")
    with Stopwatch() as stopwatch:
        timed = guided.generate(PROMPT, stopwatch=stopwatch, **options)
    seconds = stopwatch.seconds
    stages = [seconds[f"stage {stage}"] for stage in range(3)]
    assert min(stages) > 0
    assert sum(stages) <= seconds["transformer"] * 1.05
    assert seconds["compile"] > 0
    np.testing.assert_allclose(timed, guided.generate(PROMPT, **options), rtol=1e-4, atol=1e-5)
    with Stopwatch() as stopwatch:
        assert (
            count_compilations(lambda: guided.generate(PROMPT, stopwatch=stopwatch, **options)) == 0
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_frames=0), "num_frames=0 must be at least 1"),
        (dict(height=96), "height=96 must be a multiple of 64"),
        (dict(width=100), "width=100 must be a multiple of 64"),
        (dict(steps=(2, 2)), "names 2 stages, but this checkpoint has 3"),
        (dict(steps=(2, 0, 2)), r"steps\[1\]=0 must be at least 1"),
        (dict(batch=0), "batch=0 must be at least 1"),
        (dict(steps=()), r"steps=\(\) must have a number for each stage"),
        (dict(seed=2**31), "seed=2147483648 must be at least 0 and at most"),
        (dict(seed=2**31 - 1, batch=2), "seed=2147483647 must be at most 2147483646 for a batch"),
        (dict(guidance_scale=float("nan")), "guidance_scale=nan must be at least 0"),
        (dict(guidance_interval=(0.9, 0.2)), "guidance_interval=.* must be two noise levels"),
        (dict(shift=2.0), "shift must be 1.0 when use_dynamic_shifting is on"),
        (dict(solver="heun"), "solver='heun' must be one of 'unipc', 'euler'"),
        (dict(flavour="sweet"), "there is no option flavour; known here: adapters,"),
        (dict(output="gif"), "output='gif' must be one of uint8, float32, latent"),
        (dict(noise=[], num_frames=34), "noise is given for 0 chunks, but the video has 2"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(pipeline, options, message):
    """One line that names what does not fit, raised by the call and not by the first chunk."""
    with pytest.raises(RequestError, match=message):
        pipeline.stream(PROMPT, **options)


def test_empty_prompt_is_refused(pipeline):
    with pytest.raises(RequestError, match="the prompt is empty"):
        pipeline.stream("  ")


def test_a_pipeline_says_what_it_is(pipeline):
    said = repr(pipeline)
    assert said.startswith("HeliosPipeline(parameters: ")
    for part in ("transformer 0.0", "vae 0.0", "128x64, 33 frames a chunk", "dmd, steps 1,1,1"):
        assert part in said


def test_programs_of_a_loaded_pipeline_are_kept_unless_told_otherwise(pipeline, tmp_path):
    """In a notebook, too, only the first run compiles."""
    checkpoint.save(tmp_path / "toy", pipeline.config, pipeline.params, pipeline.tokenizer)
    cache = tmp_path / "programs"
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
    try:
        HeliosPipeline.from_checkpoint(tmp_path / "toy", compile_cache=str(cache))
        jax.jit(lambda x: x * 3)(1.0)
        assert any(cache.iterdir())
    finally:
        jax.config.update("jax_enable_compilation_cache", False)
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def test_progress_is_said_while_a_video_is_made(pipeline, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    frames = pipeline.generate(PROMPT, num_frames=40, show_progress=True)
    assert frames.shape == (1, 40, 64, 128, 3)
    assert "sampling: 0 of 2 chunks" in capsys.readouterr().err
