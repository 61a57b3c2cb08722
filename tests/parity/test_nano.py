"""helios-nano, converted to Diffusers as a user would, makes the same latents there."""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import pytest
import torch

from helios_jax import HeliosPipeline, nano
from helios_jax.checkpoint.convert import to_diffusers
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.sampling.request import make_request

from .compare import relative_error
from .torch_pipeline import NEGATIVE, OPTIONS, run_torch


@pytest.mark.parametrize(
    ("folder", "variant", "pipeline"),
    [
        ("nano-base", "base", diffusers.HeliosPipeline),
        ("nano-mid", "mid", diffusers.HeliosPyramidPipeline),
        ("nano", "distilled", diffusers.HeliosPyramidPipeline),
    ],
)
def test_a_chunk_equals_diffusers(folder, variant, pipeline, tmp_path):
    """Latents for the same noise agree to 1e-3, with guidance at every step, as in Diffusers."""
    checkpoint = nano.ASSETS / folder
    to_diffusers(checkpoint, tmp_path / "diffusers", progress=False)
    theirs = pipeline.from_pretrained(tmp_path / "diffusers", dtype=torch.float32)
    ours = HeliosPipeline.from_checkpoint(checkpoint)
    ours.config = dataclasses.replace(
        ours.config, sample=dataclasses.replace(ours.config.sample, guidance_interval=(0.0, 1.0))
    )
    options = dict(height=64, width=128, num_frames=33, **OPTIONS[variant])
    scheduler = ours.config.scheduler
    shape = make_request(ours.config, batch=1, **options).latent_shape
    noise = [draw_chunk_noise(jax.random.key(0)[None], 0, shape, scheduler.stages, scheduler.gamma)]
    rows = theirs.text_encoder.config.max_sequence_length
    expected, _ = run_torch(
        theirs, variant, list(nano.EXAMPLES[:1]), noise, 64, 128, max_sequence_length=rows
    )
    latents = ours.generate(
        list(nano.EXAMPLES[:1]), NEGATIVE, output="latent", noise=noise, **options
    )
    error = relative_error(latents, expected)
    assert jnp.abs(latents).max() > 1
    assert error <= 1e-3
    print(f"latents {error:.1e}")
