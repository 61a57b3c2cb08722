"""What a stream promises while it runs: prompts sent between chunks, lookahead, records, and going
on from a saved state.
"""

import dataclasses
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax import HeliosPipeline
from helios_jax.diffusion.drift import DriftControl
from helios_jax.sampling.loop import draw_noise, video_keys
from helios_jax.sampling.prompts import PromptEntry, PromptSchedule
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.sampling.state import load_state, save_state
from helios_jax.sampling.statistics import chunk_rows

from .conftest import TOY
from .test_pipeline import PROMPT, count_compilations

OTHER = "two blue squares"


def latents(pipeline, chunks=4, prompt=PROMPT, sent=None, **options):
    """Latents chunk by chunk; ``sent[k]`` is sent on receiving chunk k."""
    stream = pipeline.stream(prompt, num_frames=33 * chunks, output="latent", **options)
    received = [next(stream)]
    while len(received) < chunks:
        received.append(stream.send((sent or {}).get(len(received) - 1)))
    with pytest.raises(StopIteration):
        next(stream)
    return received


def changed(ours, theirs):
    """Which chunks differ in any bit."""
    return [bool(np.any(a != b)) for a, b in zip(ours, theirs, strict=True)]


@pytest.fixture(scope="module")
def plain(pipeline):
    """Four chunks of one prompt."""
    return latents(pipeline)


def test_a_sent_prompt_governs_the_next_chunk(pipeline, plain):
    """The chunk that ``send`` returns is the first to change; those before are equal to the last
    bit.
    """
    assert changed(latents(pipeline, sent={1: OTHER}), plain) == [False, False, True, True]


def test_with_lookahead_a_sent_prompt_governs_the_chunk_after_the_next(pipeline, plain):
    """The next one is under way already. Lookahead by itself changes nothing; sent too late, a
    prompt has no effect.
    """
    assert changed(latents(pipeline, sent={1: OTHER}, lookahead=1), plain) == [
        False,
        False,
        False,
        True,
    ]
    assert changed(latents(pipeline, sent={2: OTHER}, lookahead=1), plain) == [False] * 4


def test_lookahead_begins_a_chunk_before_the_one_before_it_is_yielded(pipeline):
    """What is asked for noise has begun."""
    request = make_request(pipeline.config, num_frames=99)
    begun = []

    def noise(chunk):
        begun.append(chunk)
        return draw_noise(request, video_keys(request), chunk)

    for lookahead, expected in ((0, [1, 2, 3]), (1, [2, 3, 3])):
        begun.clear()
        stream = pipeline.stream(PROMPT, request, lookahead=lookahead, output="latent", noise=noise)
        assert [len(begun) for _ in stream] == expected


def test_a_schedule_is_prompts_sent_on_time(pipeline):
    """A schedule makes the video that sending its prompts at its changes makes, blended alike."""
    schedule = PromptSchedule.of([PromptEntry(PROMPT, 2), PromptEntry(OTHER, 2, 1)])
    assert (
        changed(latents(pipeline, prompt=schedule), latents(pipeline, sent={1: OTHER}, blend=1))
        == [False] * 4
    )
    assert len(list(pipeline.stream(schedule, output="latent"))) == 4
    assert pipeline.generate(schedule._replace(chunks=1)).shape[1] == 33


def test_nothing_compiles_for_a_blend_or_a_sent_prompt(pipeline):
    """The programs of the first two chunks serve every text of their length."""
    stream = pipeline.stream(PROMPT, num_frames=33 * 6, blend=2, output="latent")
    next(stream)
    next(stream)
    assert count_compilations(lambda: stream.send(OTHER)) == 0
    assert (
        count_compilations(lambda: [next(stream), stream.send("a quick brown fox"), next(stream)])
        == 0
    )


def test_a_prompt_for_each_video(pipeline):
    """Each video of a batch can be sent its own; a number that does not fit, or an empty one, is
    refused.
    """
    stream = pipeline.stream([PROMPT, OTHER], num_frames=66, output="latent")
    next(stream)
    both = stream.send([PROMPT, PROMPT])
    stream = pipeline.stream([PROMPT, OTHER], num_frames=66, output="latent")
    next(stream)
    neither = next(stream)
    assert changed(both, neither) == [False, True]
    for sent, message in (
        (["a", "b", "c"], "batch=2 does not fit 3 prompts"),
        (" ", "the prompt is empty"),
    ):
        stream = pipeline.stream([PROMPT, OTHER], num_frames=66, output="latent")
        next(stream)
        with pytest.raises(RequestError, match=message):
            stream.send(sent)


@pytest.mark.parametrize(
    "drift", [None, DriftControl(mean_threshold=0.0)], ids=["plain", "drift controlled"]
)
@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_resumed_video_is_the_one_that_was_interrupted(guided, lookahead, drift, tmp_path):
    """The state of a chunk, saved and loaded, gives the chunks that followed, bit for bit, with a
    blend under way.
    """
    schedule = PromptSchedule.of([PromptEntry(PROMPT, 1), PromptEntry(OTHER, 3, 2)])
    states = []
    options = dict(
        seed=3,
        num_frames=99,
        drift=drift,
        on_chunk=lambda record: states.append(record.state),
        lookahead=lookahead,
    )
    whole = list(guided.stream(schedule, negative_prompt="grey", output="latent", **options))
    for chunk in (0, 1):
        save_state(tmp_path / "state.safetensors", states[chunk])
        state = load_state(tmp_path / "state.safetensors")
        for _ in range(2):  # a state can be used again
            assert changed(list(guided.resume(state, output="latent")), whole[chunk + 1 :]) == [
                False
            ] * (2 - chunk)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_video_can_be_made_longer(pipeline, plain):
    """A finished video resumes with more frames, and says so where there are none to make."""
    states = []
    latents(pipeline, chunks=3, on_chunk=lambda record: states.append(record.state))
    assert changed(
        list(pipeline.resume(states[-1], num_frames=33 * 4, output="latent")), plain[3:]
    ) == [False]
    with pytest.raises(
        RequestError, match="all 3 chunks of num_frames=99 are made: ask for more frames to go on"
    ):
        pipeline.resume(states[-1])


def test_a_state_of_another_model_is_refused(pipeline):
    states = []
    next(
        pipeline.stream(
            PROMPT,
            num_frames=66,
            on_chunk=lambda record: states.append(record.state),
            output="latent",
        )
    )
    wider = dataclasses.replace(TOY.transformer, ffn_dim=48)
    other = HeliosPipeline.random(dataclasses.replace(TOY, transformer=wider))
    with pytest.raises(
        RequestError,
        match=r"the state to resume is of another model: transformer\.ffn_dim is 32 there, 48 here",
    ):
        other.resume(states[0])


def test_saved_latents_decode_to_the_frames_that_were_streamed(pipeline):
    """Records hold each chunk's latents and frames; the latents decode to the same frames later."""
    records = []
    frames = list(pipeline.stream(PROMPT, num_frames=66, on_chunk=records.append))
    assert changed([record.frames for record in records], frames) == [False, False]
    saved = np.concatenate([record.latents for record in records], axis=1)
    assert changed(list(pipeline.decode_video(saved)), frames) == [False, False]
    with pytest.raises(RequestError, match="a multiple of 9"):
        pipeline.decode_video(saved[:, :10])


def test_drift_is_left_alone_unless_it_is_controlled(pipeline, plain, caplog):
    """Where nothing exceeds the thresholds, or only one of two does, the video is as without; else
    the next chunk is the first to change.
    """
    rows = []
    record = lambda record: rows.extend(
        chunk_rows(record.index, record.latents, drift=record.drift)
    )
    quiet = DriftControl(mean_threshold=100.0, variance_threshold=0.0, when="both")
    assert changed(latents(pipeline, drift=quiet, on_chunk=record), plain) == [False] * 4
    assert [row["corrupted"] for row in rows] == [0.0] * 4
    with caplog.at_level(logging.INFO):
        assert changed(
            latents(pipeline, drift=dataclasses.replace(quiet, when="either")), plain
        ) == [False, False, True, True]
    assert [line.split(": ")[-1] for line in caplog.messages] == [
        "kept",
        "corrupted",
        "corrupted",
        "corrupted",
    ]
    shown = dataclasses.replace(quiet, when="either", corrupt="chunk")
    assert changed(latents(pipeline, drift=shown), plain) == [False, True, True, True]


def test_the_velocity_of_a_blended_text_is_that_of_the_blended_embeddings(pipeline):
    """Blending in the bucket of the longer prompt, its padding one row, equals blending the two
    embeddings at full length, every row attended to.
    """
    total, transformer = pipeline.config.text_encoder.max_sequence_length, pipeline.transformer
    prompts = ["a red ball", PROMPT + " " + PROMPT]
    full = []
    for prompt in prompts:
        features, _ = pipeline.encode_prompt(prompt)
        full.append(jnp.pad(features, ((0, 0), (0, total - features.shape[1]), (0, 0))))
    params = {"params": pipeline.params["transformer"]}
    expected = transformer.apply(params, 0.75 * full[0] + 0.25 * full[1], method="embed_text")
    schedule = PromptSchedule.of([PromptEntry(prompts[0], 1), PromptEntry(prompts[1], 4, 3)])
    text = pipeline.prompt_texts()(schedule, 1)
    assert text.key.shape[2] < total

    noisy = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 4, 4, 4)), jnp.float32)
    time = transformer.apply(params, jnp.array([500.0]), method="embed_time")
    velocity = lambda text: np.asarray(
        transformer.apply(params, noisy, time, text, None, (0, 1), method="denoise")
    )
    error = np.abs(velocity(text) - velocity(expected)).max()
    assert error < 1e-5
    assert (
        np.abs(velocity(pipeline.prompt_texts()(schedule, 0)) - velocity(expected)).max()
        > 10 * error
    )
