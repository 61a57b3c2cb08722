"""helios-nano, converted to Diffusers as a user would, makes the same latents there."""

import diffusers
import jax
import jax.numpy as jnp
import pytest
import torch

from helios_jax import HeliosPipeline, nano
from helios_jax.checkpoint.convert import to_diffusers
from helios_jax.sampling.loop import draw_noise
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
    request = make_request(
        ours.config,
        height=64,
        width=128,
        num_frames=33,
        guidance_interval=(0.0, 1.0),
        negative_prompt=NEGATIVE,
        **OPTIONS[variant],
    )
    noise = [draw_noise(request, jax.random.key(0)[None], 0)]
    rows = theirs.text_encoder.config.max_sequence_length
    expected, _ = run_torch(
        theirs, variant, list(nano.EXAMPLES[:1]), noise, 64, 128, max_sequence_length=rows
    )
    latents = ours.generate(nano.EXAMPLES[0], request, output="latent", noise=noise)
    error = relative_error(latents, expected)
    assert jnp.abs(latents).max() > 1
    assert error <= 1e-3
    print(f"latents {error:.1e}")
