"""Videos that start from an image or from another video are those of Diffusers."""

import dataclasses
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
    initial_history,
    make_conditioning,
)
from helios_jax.sampling.request import make_request

from .compare import channels_first, channels_last, relative_error
from .formula import Formula, torch_formula
from .torch_pipeline import NEGATIVE, OPTIONS, PROMPTS, make_pair, run_torch

CHUNKS = 3
SIZE = (64, 128)
GAINS = np.array([0.7, -0.4], np.float32)
RANGES = {"image": (0.2, 0.3), "video": (0.4, 0.7)}
"""Far from each other, so that the test sees it if they are exchanged."""
NOISE_RANGES = {f"{name}_noise": ends for name, ends in RANGES.items()}


def make_start(kind, request):
    """Our conditioning, its noise, and the arguments for Diffusers. A video has ``kind`` frames."""
    random = np.random.default_rng(0)
    B = request.batch
    cells = request.latent_shape[1:]

    def normal(frames):
        return random.standard_normal((B, frames, *cells), np.float32)

    def draw(frames):
        return normal(frames), random.random(frames, np.float32), normal(frames)

    def ours(posterior, sigma, noise):
        return ClipNoise(posterior, np.tile(sigma, (B, 1)), noise)

    anchor = draw(1)
    pieces = [draw(9) for _ in range(1 if kind == "image" else kind // 33)]
    # Of an image's clip only the last frame is used.
    newest = slice(-1, None) if kind == "image" else slice(None)
    draws = [channels_first(posterior) for posterior, _, _ in (anchor, *pieces)]
    for _, sigma, noise in (anchor, *pieces):
        draws += [torch.from_numpy(sigma[newest]), channels_first(noise[:, newest])]

    name = "image" if kind == "image" else "video"
    frames = () if kind == "image" else (kind,)
    shape = (B, *frames, request.height // 8, request.width // 8, 3)
    pixels = random.integers(0, 256, shape, np.uint8).repeat(8, -3).repeat(8, -2)
    conditioning = {name: pixels}
    noise = ConditioningNoise(ours(*anchor), tuple(ours(*piece) for piece in pieces[-3:]))
    theirs = {"draws": draws, name: pixels.astype(np.float32) / 255}
    for kind_of_range, (least, greatest) in RANGES.items():
        theirs[f"{kind_of_range}_noise_sigma_min"] = least
        theirs[f"{kind_of_range}_noise_sigma_max"] = greatest
    return conditioning, noise, theirs


def make_noise(request, stages):
    """Noise of every chunk."""
    random = np.random.default_rng(1)
    T, *grid, C = request.latent_shape

    def draw(grid):
        return random.standard_normal((request.batch, T, *grid, C), np.float32)

    noise = []
    for _ in range(CHUNKS):
        latents = draw(grid)
        noise.append(ChunkNoise(latents, tuple(map(draw, stage_grids(*grid, stages)[1:]))))
    return noise


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
    request = make_request(
        ours.config, batch=2, height=32, width=48, **OPTIONS["base"], **NOISE_RANGES
    )
    conditioning, noise, options = make_start(kind, request)
    seen = {}

    def stop(*_, **inputs):
        for part in ("short", "mid", "long"):
            seen[part] = channels_last(inputs[f"latents_history_{part}"])
        raise StopIteration

    monkeypatch.setattr(theirs.transformer, "forward", stop)
    with pytest.raises(StopIteration):
        run_torch(theirs, "base", PROMPTS, make_noise(request, 1), 32, 48, **options)
    conditioning = make_conditioning(request, **conditioning)
    state = initial_history(ours.vae, ours.params["vae"], request, conditioning, lambda: noise)
    history = split_history(state, request.plan.history_sizes)
    expected = np.concatenate([seen[part] for part in history._fields], axis=1)
    error = relative_error(np.concatenate(history, axis=1), expected)
    print(f"{kind}: {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("variant", ["base", "mid", "distilled"])
def test_chunk_loop_equals_diffusers(variant, pairs, monkeypatch):
    """The history and the anchor that chunks see after a start, with a formula in the place of the
    network: three chunks to 1e-5.
    """
    theirs, ours = pairs(variant)
    config = ours.config
    scheduler = config.scheduler
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
    gains = jnp.asarray(gains.reshape(1, -1, 1, 1, 1))
    cache = TextCache(gains, gains, None)

    for name, newest, skip in (
        ("image", 1, False),
        ("image", 1, True),
        ("video", 18, False),
        ("video", 18, True),
    ):
        random = np.random.default_rng(2)
        cells = request.latent_shape[1:]
        anchor = random.standard_normal((1, 1, *cells), np.float32)
        window = random.standard_normal((1, 19, *cells), np.float32)
        window[:, : 19 - newest] = 0
        given = channels_first(anchor), channels_first(window[:, 19 - newest :])
        monkeypatch.setattr(theirs, f"prepare_{name}_latents", lambda *_, given=given, **__: given)
        options = {
            name: np.zeros((1, *SIZE, 3), np.float32),
            f"add_noise_to_{name}_latents": False,
            "is_skip_first_chunk": skip,
        }
        expected, _ = run_torch(theirs, variant, [""], noise, *SIZE, **options)

        state = HistoryState(jnp.asarray(window), jnp.asarray(anchor), jnp.ones((), bool))
        chunks = []
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
    request = make_request(
        ours.config,
        num_frames=33 * CHUNKS,
        height=SIZE[0],
        width=SIZE[1],
        negative_prompt=NEGATIVE,
        **OPTIONS[variant],
        **NOISE_RANGES,
    )
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
            dataclasses.replace(request, skip_first_chunk=skip),
            output="latent",
            noise=chunk_noise,
            conditioning_noise=noise,
            **conditioning,
        )
        error = relative_error(latents, expected)
        print(f"{variant}, {kind}, {skip}: {error:.1e}")
        assert error <= 1e-4
