"""Videos that start from an image or from another video are those of Diffusers."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.diffusion.history import HistoryState, release_anchor, split_history
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.models.block import TextCache
from helios_jax.sampling.chunk import sample_chunk
from helios_jax.sampling.conditioning import (
    ClipNoise,
    ConditioningNoise,
    make_conditioning,
    start_state,
)
from helios_jax.sampling.request import make_request

from .compare import channels_first, channels_last, relative_error
from .formula import Formula, torch_formula
from .torch_pipeline import NEGATIVE, OPTIONS, PROMPTS, make_pair, run_torch

CHUNKS, SIZE = 3, (64, 128)
GAINS = np.array([0.7, -0.4], np.float32)
RANGES = {"image": (0.2, 0.3), "video": (0.4, 0.7)}
"""Far from one another, so that a range in the other's place is seen."""


def make_start(kind, request):
    """Arguments of ours, draws for them, and the same for Diffusers. A video has ``kind`` frames."""
    random, B, cells = np.random.default_rng(0), request.batch, request.latent_shape[1:]
    normal = lambda frames: random.standard_normal((B, frames, *cells), np.float32)
    draw = lambda frames: (normal(frames), random.random(frames, np.float32), normal(frames))
    ours = lambda posterior, sigma, noise: ClipNoise(posterior, np.tile(sigma, (B, 1)), noise)
    anchor, pieces = draw(1), [draw(9) for _ in range(1 if kind == "image" else kind // 33)]
    newest = (
        slice(-1, None) if kind == "image" else slice(None)
    )  # of an image's clip only the last frame is used
    draws = [channels_first(posterior) for posterior, _, _ in (anchor, *pieces)]
    for _, sigma, noise in (anchor, *pieces):
        draws += [torch.from_numpy(sigma[newest]), channels_first(noise[:, newest])]

    name, frames = ("image", ()) if kind == "image" else ("video", (kind,))
    pixels = (
        random.integers(0, 256, (B, *frames, request.height // 8, request.width // 8, 3), np.uint8)
        .repeat(8, -3)
        .repeat(8, -2)
    )
    conditioning = {name: pixels, "image_noise": RANGES["image"], "video_noise": RANGES["video"]}
    noise = ConditioningNoise(ours(*anchor), tuple(ours(*piece) for piece in pieces[-3:]))
    theirs = {
        f"{name}_noise_sigma_{end}": value
        for name, ends in RANGES.items()
        for end, value in zip(("min", "max"), ends)
    }
    return conditioning, noise, dict(theirs, draws=draws, **{name: pixels.astype(np.float32) / 255})


def make_noise(request, stages):
    """Noise of every chunk."""
    random, (T, *grid, C) = np.random.default_rng(1), request.latent_shape
    draw = lambda grid: random.standard_normal((request.batch, T, *grid, C), np.float32)
    return [
        ChunkNoise(draw(grid), tuple(map(draw, stage_grids(*grid, stages)[1:])))
        for _ in range(CHUNKS)
    ]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pipelines by variant, each made once."""
    return functools.cache(lambda variant: make_pair(variant, tmp_path_factory.mktemp(variant)))


@pytest.mark.parametrize("kind", ["image", 70, 4 * 33 + 5])
def test_start_is_that_of_diffusers(kind, pairs, monkeypatch):
    """The history before the first chunk, to 1e-5: frames encoded, posteriors sampled, latents
    normalised, noise added, each in its range.
    """
    theirs, ours = pairs("base")
    request = make_request(ours.config, batch=2, height=32, width=48, **OPTIONS["base"])
    conditioning, noise, options = make_start(kind, request)
    seen = {}

    def stop(*_, **inputs):
        seen.update(
            (part, channels_last(inputs[f"latents_history_{part}"]))
            for part in ("short", "mid", "long")
        )
        raise StopIteration

    monkeypatch.setattr(theirs.transformer, "forward", stop)
    with pytest.raises(StopIteration):
        run_torch(theirs, "base", PROMPTS, make_noise(request, 1), 32, 48, **options)
    state = start_state(
        ours.vae,
        ours.params["vae"],
        request,
        make_conditioning(request, **conditioning),
        lambda: noise,
    )
    history = split_history(state, request.plan.history_sizes)
    join = lambda parts: np.concatenate([parts["short"], parts["mid"], parts["long"]], axis=1)
    error = relative_error(join(history._asdict()), join(seen))
    print(f"{kind}: {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("variant", ["base", "mid", "distilled"])
def test_chunk_loop_equals_diffusers(variant, pairs, monkeypatch):
    """Which history and which anchor the chunks see after a start, with a formula in the place of
    the network: three chunks to 1e-5.
    """
    theirs, ours = pairs(variant)
    config, scheduler = ours.config, ours.config.scheduler
    request = make_request(
        config, num_frames=33 * CHUNKS, height=SIZE[0], width=SIZE[1], **OPTIONS[variant]
    )
    noise = make_noise(request, scheduler.stages)
    text = torch.from_numpy(GAINS)[:, None, None].expand(2, 3, 16)
    monkeypatch.setattr(theirs, "encode_prompt", lambda **_: (text[:1], text[1:]))
    monkeypatch.setattr(theirs.transformer, "forward", torch_formula)
    monkeypatch.setattr(
        theirs.vae, "decode", lambda latents, **_: (latents.new_zeros(1, 3, 33, 8, 8),)
    )
    gains = GAINS if request.plan.guided else GAINS[:1]
    cache = TextCache(*(jnp.asarray(gains.reshape(1, -1, 1, 1, 1)),) * 2, None)

    for name, newest, skip in (
        ("image", 1, False),
        ("image", 1, True),
        ("video", 18, False),
        ("video", 18, True),
    ):
        random, cells = np.random.default_rng(2), request.latent_shape[1:]
        anchor, ring = (
            random.standard_normal((1, frames, *cells), np.float32) for frames in (1, 19)
        )
        ring[:, : 19 - newest] = 0
        given = channels_first(anchor), channels_first(ring[:, 19 - newest :])
        monkeypatch.setattr(theirs, f"prepare_{name}_latents", lambda *_, given=given, **__: given)
        options = {
            name: np.zeros((1, *SIZE, 3), np.float32),
            f"add_noise_to_{name}_latents": False,
            "is_skip_first_chunk": skip,
        }
        expected, _ = run_torch(theirs, variant, [""], noise, *SIZE, **options)

        state, chunks = HistoryState(jnp.asarray(ring), jnp.asarray(anchor), jnp.ones((), bool)), []
        for chunk in range(CHUNKS):
            state = release_anchor(state) if skip and chunk == 1 else state
            static = dict(
                model=Formula(config.transformer),
                scheduler=scheduler,
                plan=request.plan if chunk else request.first_plan,
            )
            state, latents = sample_chunk(
                {}, state, noise[chunk], cache, jnp.float32(request.guidance_scale), **static
            )
            chunks.append(latents)
        error = relative_error(np.concatenate(chunks, axis=1), expected)
        print(f"{variant}, {name}, {skip}: {error:.1e}")
        assert error <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "mid", "distilled"])
def test_videos_are_those_of_diffusers(variant, pairs, monkeypatch):
    """From an image, from a video, and from an image whose anchor is replaced, by the user's API:
    latents of three chunks to 1e-4.
    """
    theirs, ours = pairs(variant)
    options = dict(num_frames=33 * CHUNKS, height=SIZE[0], width=SIZE[1], **OPTIONS[variant])
    request = make_request(ours.config, **options)
    chunk_noise = make_noise(request, ours.config.scheduler.stages)
    monkeypatch.setattr(
        theirs.vae, "decode", lambda latents, **_: (latents.new_zeros(1, 3, 33, 8, 8),)
    )
    for kind, skip in (("image", False), ("image", True), (70, False)):
        conditioning, noise, their_options = make_start(kind, request)
        expected, _ = run_torch(
            theirs,
            variant,
            PROMPTS[:1],
            chunk_noise,
            *SIZE,
            **their_options,
            is_skip_first_chunk=skip,
        )
        latents = ours.generate(
            PROMPTS[0],
            NEGATIVE,
            output="latent",
            noise=chunk_noise,
            conditioning_noise=noise,
            skip_first_chunk=skip,
            **conditioning,
            **options,
        )
        error = relative_error(latents, expected)
        print(f"{variant}, {kind}, {skip}: {error:.1e}")
        assert error <= 1e-4
