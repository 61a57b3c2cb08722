"""Whole pipelines make the video that PyTorch makes, from prompt to pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.sampling.request import make_request

from .compare import channels_last, relative_error
from .torch_pipeline import NEGATIVE, PROMPTS, make_pair, psnr, run_torch

CHUNKS, SIZE = 3, (128, 128)


@pytest.mark.parametrize("variant", ["base", "mid", "distilled"])
def test_three_chunks_equal_diffusers(variant, tmp_path):
    """Latents of three chunks agree to 1e-4 and frames to 60 dB, on frames with contrast."""
    theirs, ours = make_pair(variant, tmp_path)
    request = make_request(ours.config, batch=2, num_frames=33 * CHUNKS, height=SIZE[0], width=SIZE[1])
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    scheduler = ours.config.scheduler
    noise = [draw_chunk_noise(keys, chunk, request.latent_shape, scheduler.stages, scheduler.gamma) for chunk in range(CHUNKS)]

    options = dict(noise=noise, height=SIZE[0], width=SIZE[1], num_frames=33 * CHUNKS)
    expected = run_torch(theirs, variant, PROMPTS, noise, *SIZE, output="latent")
    latents = ours.generate(PROMPTS, NEGATIVE, output="latent", **options)
    error = relative_error(latents, channels_last(expected))
    print(variant, "latents", error)
    assert error <= 1e-4

    expected = run_torch(theirs, variant, PROMPTS, noise, *SIZE, output="np")
    frames = ours.generate(PROMPTS, NEGATIVE, output="float32", **options)
    assert expected.std() >= 0.1
    ratio = psnr(frames[:, : expected.shape[1]], expected)
    print(variant, "frames", ratio, expected.std(), expected.shape)
    assert ratio >= 60
    written = ours.generate(PROMPTS, NEGATIVE, **options)
    np.testing.assert_array_equal(written, (frames * 255).astype(np.uint8))
