"""What a video starts from: which frames are read, where they go, and what noise they get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.models.vae import VAE, to_vae_space
from helios_jax.sampling.conditioning import (
    draw_conditioning_noise,
    initial_history,
    make_conditioning,
)
from helios_jax.sampling.request import RequestError, make_request

from .conftest import TOY
from .test_pipeline import count_compilations

SHAPE = (9, 8, 16, 4)
PIXELS = (64, 128, 3)
CLEAN = dict(image_noise=(0.0, 0.0), video_noise=(0.0, 0.0))


class Means(VAE):
    """Latents are means of the pixels they cover, and certain: enough to see where a frame has
    gone, and nothing to compile.
    """

    def setup(self):
        pass

    def encode(self, video):
        cells = video.reshape(*video.shape[:2], 8, 8, 16, 8, 3).mean((3, 5, 6))
        groups = cells[:, 1:].reshape(len(cells), -1, 4, 8, 16).mean(2)
        mean = jnp.concatenate([cells[:, :1], groups], axis=1)[..., None] * jnp.ones(
            (1, 1, 1, 1, 4)
        )
        return mean, jnp.full_like(mean, -1e9)


def keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def start(batch=1, seeds=(0,), image=None, video=None, **fields):
    """The start state, by the formula of a VAE."""
    request = make_request(TOY, batch=batch, **fields)
    conditioning = make_conditioning(request, image=image, video=video)
    noise = lambda: draw_conditioning_noise(keys(*seeds), len(conditioning.pieces), SHAPE)
    return initial_history(Means(TOY.vae), {}, request, conditioning, noise)


def video(frames, batch=1):
    """Frame f is as bright as f."""
    return np.broadcast_to(
        np.arange(frames, dtype=np.uint8)[None, :, None, None, None], (batch, frames, *PIXELS)
    )


def brightness(latents):
    """The pixel value that latents of :class:`Means` came from."""
    return (to_vae_space(TOY.vae, latents)[0, :, 0, 0, 0] + 1) * 127.5


def test_text_alone_starts_from_nothing():
    """Zeros, no anchor, and nothing is drawn."""
    state = initial_history(
        Means(TOY.vae), {}, make_request(TOY), None, lambda: pytest.fail("drawn")
    )
    assert not np.any(state.window)
    assert not np.any(state.anchor)
    assert not state.anchored


def test_image_is_anchor_and_newest_frame():
    """Before the newest frame there is nothing, and the anchor stays."""
    state = start(image=video(1)[:, 0] + 40, **CLEAN)
    np.testing.assert_allclose(brightness(state.anchor), [40], atol=1e-3)
    np.testing.assert_allclose(brightness(state.window[:, -1:]), [40], atol=1e-3)
    assert not np.any(state.window[:, :-1])
    assert state.anchored


@pytest.mark.parametrize(
    ("frames", "first"),
    [(33, 0), (65, 32), (66, 0), (70, 4), (99, 0), (169, 70)],
    ids=lambda value: str(value),
)
def test_video_is_read_from_its_end_in_pieces_of_a_chunk(frames, first):
    """The last 33k frames, in pieces that begin with a single frame; the newest 19 latent frames
    stay; the anchor is the very first frame.
    """
    state = start(video=video(frames), **CLEAN)
    pieces = [[start, *(start + 2.5 + 4 * np.arange(8))] for start in range(first, frames, 33)]
    expected = np.concatenate(pieces)[-19:]
    np.testing.assert_allclose(brightness(state.window)[-len(expected) :], expected, atol=1e-3)
    assert not np.any(state.window[:, : 19 - len(expected)])
    np.testing.assert_allclose(brightness(state.anchor), [0], atol=1e-3)


def test_only_pieces_that_reach_the_window_are_encoded():
    """Three pieces are, of however many, and the state is that of the last three alone, noise and
    all, but for the anchor.
    """
    request = make_request(TOY)
    long = make_conditioning(request, video=video(33 * 6))
    assert [piece.shape[1] for piece in long.pieces] == [33, 33, 33]
    whole, part = start(video=video(33 * 6)), start(video=video(33 * 6)[:, 33 * 3 :])
    np.testing.assert_array_equal(whole.window, part.window)
    assert np.abs(whole.anchor - part.anchor).max() > 0.1


@pytest.mark.parametrize(("history", "filled"), [("still", 1), ("window", 9), ("anchor", 0)])
def test_histories_of_an_image(history, filled):
    """The newest frame alone; with the noise of training on the zeros of its nine; or the anchor
    alone.
    """
    image = video(1)[:, 0]
    state = start(image=image, image_history=history, video_noise=(0.3, 0.3))
    still = start(image=image, video_noise=(0.3, 0.3))
    assert not np.any(state.window[:, : 19 - filled])
    np.testing.assert_array_equal(state.anchor, still.anchor)
    if filled:
        np.testing.assert_array_equal(state.window[:, -1], still.window[:, -1])
    if filled > 1:  # 0.3 times unit noise
        assert abs(np.std(state.window[:, -9:-1]) - 0.3) < 0.01


def test_noise_lies_within_its_ranges():
    """Sigma 0 leaves a frame, 1 leaves nothing of it; the anchor obeys one range, the window the
    other, each frame with a sigma of its own.
    """
    draws = draw_conditioning_noise(keys(0), 1, SHAPE)
    clean = start(video=video(33), **CLEAN)
    state = start(video=video(33), image_noise=(1.0, 1.0), video_noise=(0.2, 0.6))
    np.testing.assert_allclose(state.anchor, draws.anchor.noise, rtol=1e-6)
    sigma = np.asarray(0.2 + 0.4 * draws.pieces[0].sigma)[:, :, None, None, None]
    assert np.ptp(sigma) > 0.1
    expected = (1 - sigma) * np.asarray(clean.window[:, -9:]) + sigma * np.asarray(
        draws.pieces[0].noise
    )
    np.testing.assert_allclose(state.window[:, -9:], expected, rtol=1e-5, atol=1e-5)


def test_posterior_is_sampled():
    """Mean plus deviation times the draw, then normalised."""

    class Uncertain(Means):
        def encode(self, video):
            mean, _ = super().encode(video)
            return mean, jnp.full_like(mean, 2 * np.log(0.5))

    request = make_request(TOY, **CLEAN)
    conditioning = make_conditioning(request, image=video(1)[:, 0])
    draws = draw_conditioning_noise(keys(0), 1, SHAPE)
    state = initial_history(Uncertain(TOY.vae), {}, request, conditioning, lambda: draws)
    clean = start(image=video(1)[:, 0], **CLEAN)
    shift = 0.5 * np.asarray(draws.anchor.posterior) / np.asarray(TOY.vae.latents_std, np.float32)
    np.testing.assert_allclose(state.anchor, np.asarray(clean.anchor) + shift, rtol=1e-5, atol=1e-5)
    assert state.anchor.dtype == state.window.dtype == jnp.float32


def test_draws_of_a_video_do_not_depend_on_its_batch():
    """Nor does its start, from an image of its own or one for all; every draw is another."""
    both, alone = (
        draw_conditioning_noise(keys(3, 4), 2, SHAPE),
        draw_conditioning_noise(keys(4), 2, SHAPE),
    )
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1:], y), both, alone)
    shared, own = start(2, (3, 4), image=video(1)[:, 0]), start(1, (4,), image=video(1)[:, 0])
    np.testing.assert_allclose(shared.window[1:], own.window, rtol=1e-5, atol=1e-6)
    assert np.abs(shared.window[0] - shared.window[1]).max() > 0.1
    chunk = draw_chunk_noise(keys(4), 0, SHAPE, 1, 1 / 3)
    normal = [
        chunk.latents,
        *(clip.posterior for clip in alone.pieces),
        *(clip.noise for clip in alone.pieces),
    ]
    correlation = np.corrcoef([np.ravel(draw) for draw in normal])
    assert np.abs(correlation - np.eye(len(normal))).max() < 0.06


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(image=video(1)[:, 0], video=video(33)), "an image and a video are given"),
        (
            dict(image=video(1)),
            r"image must be a file or an array of uint8 \[1, 64, 128, 3\], "
            r"not uint8 \[1, 1, 64, 128, 3\]",
        ),
        (dict(image=video(1, 2)[:, 0]), r"not uint8 \[2, 64, 128, 3\]"),
        (dict(image=video(1)[:, 0].astype(np.float32)), r"not float32 \[1, 64, 128, 3\]"),
        (dict(image=[7]), "not list"),
        (
            dict(video=video(33)[0, 0]),
            r"video must be a file or an array of uint8 \[1, frames, 64, 128, 3\], "
            r"not uint8 \[64, 128, 3\]",
        ),
        (
            dict(video=video(32)),
            "video of 32 frames is too short: at least one chunk, 33 frames, is needed",
        ),
        (
            dict(image_noise=(0.2, 0.1)),
            r"image_noise=0.2,0.1 must be two numbers, 0 <= least <= greatest <= 1",
        ),
        (dict(video_noise=(0.2,)), r"video_noise=\(0.2,\) must have 2 values"),
        (dict(video_noise=(0.5, 1.5)), r"video_noise\[1\]=1.5 must be at least 0 and at most 1"),
        (
            dict(image_history="none"),
            "image_history='none' must be one of 'still', 'window', 'anchor'",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused(options, message):
    """One line that says what was found and what is needed."""
    with pytest.raises(RequestError, match=message):
        start(**options)


IMAGE = np.random.default_rng(0).integers(0, 256, (1, 8, 16, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def test_a_start_costs_no_program_a_chunk(pipeline):
    """Chunks after an image and chunks after nothing are made by the same programs, with a new
    anchor or without.
    """
    run = lambda **options: pipeline.generate(
        "a red ball", num_frames=99, output="latent", **options
    )
    plain, moved = run(), run(image=IMAGE, skip_first_chunk=True)
    assert np.abs(plain - moved).max() > 1e-3
    again = IMAGE[:, ::-1]
    assert count_compilations(lambda: run(image=again, image_noise=(0.2, 0.3), seed=3)) == 0
    assert count_compilations(lambda: run(skip_first_chunk=True)) == 0


def test_anchor_is_the_image_for_the_whole_run_unless_the_first_chunk_is_skipped(pipeline):
    """Skipped, it is the second chunk's first frame, seen by the third chunk, not before."""

    def run(**options):
        records = []
        list(
            pipeline.stream(
                "a red ball",
                num_frames=99,
                output="latent",
                image=IMAGE,
                on_chunk=records.append,
                **options,
            )
        )
        return np.concatenate([record.latents for record in records], axis=1), [
            record.state.history.anchor for record in records
        ]

    latents, anchors = run()
    for anchor in anchors[1:]:
        np.testing.assert_array_equal(anchor, anchors[0])
    skipped, moved = run(skip_first_chunk=True)
    np.testing.assert_array_equal(skipped[:, :18], latents[:, :18])
    np.testing.assert_array_equal(moved[0], anchors[0])
    for anchor in moved[1:]:
        np.testing.assert_array_equal(anchor, latents[:, 9:10])
    assert np.abs(skipped[:, 18:] - latents[:, 18:]).max() > 1e-4


def test_a_start_is_refused_by_the_call(pipeline):
    """Before anything is computed."""
    with pytest.raises(RequestError, match="image must be a file or an array of uint8"):
        pipeline.stream("a red ball", image=IMAGE.astype(np.float32))
