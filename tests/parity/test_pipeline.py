"""Whole pipelines make the video of Diffusers, from prompt to pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.sampling.request import make_request

from .compare import relative_error
from .torch_pipeline import NEGATIVE, OPTIONS, PROMPTS, make_pair, psnr, run_torch

CHUNKS = 3
SIZE = (64, 128)


@pytest.mark.parametrize(("variant", "batch"), [("base", 1), ("mid", 1), ("distilled", 2)])
def test_three_chunks_equal_diffusers(variant, batch, tmp_path):
    """Latents of three chunks agree to 1e-4 and frames to 60 dB, on frames with contrast."""
    theirs, ours = make_pair(variant, tmp_path)
    options = dict(height=SIZE[0], width=SIZE[1], num_frames=33 * CHUNKS, **OPTIONS[variant])
    request = make_request(ours.config, batch=batch, negative_prompt=NEGATIVE, **options)
    keys = jax.vmap(jax.random.key)(jnp.arange(batch))
    scheduler = ours.config.scheduler
    noise = [
        draw_chunk_noise(keys, chunk, request.latent_shape, scheduler.stages, scheduler.gamma)
        for chunk in range(CHUNKS)
    ]

    expected_latents, expected = run_torch(theirs, variant, PROMPTS[:batch], noise, *SIZE)
    latents = ours.generate(PROMPTS[:batch], request, output="latent", noise=noise)
    error = relative_error(latents, expected_latents)
    assert error <= 1e-4

    chunks = np.split(latents, CHUNKS, axis=1)
    frames = [ours.decode(jnp.asarray(chunk), "float32") for chunk in chunks]
    frames = np.concatenate(frames, axis=1)
    ratio = psnr(frames[:, : expected.shape[1]], expected)
    assert expected.std() >= 0.1
    assert ratio >= 60
    print(f"{variant}: latents {error:.1e}, frames {ratio:.0f} dB")
