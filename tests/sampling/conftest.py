"""A pipeline of toy size with random weights."""

import dataclasses

import pytest

from helios_jax import HeliosPipeline
from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)

TOY = HeliosConfig(
    transformer=TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        rope_dim=(4, 4, 4),
        in_channels=4,
        out_channels=4,
        text_dim=16,
        ffn_dim=32,
        num_layers=3,
    ),
    vae=VAEConfig(
        base_dim=4,
        z_dim=4,
        dim_mult=(1, 1, 1, 1),
        num_res_blocks=1,
        latents_mean=(0.0, 0.1, -0.2, 0.3),
        latents_std=(1.0, 1.5, 0.7, 1.2),
    ),
    text_encoder=TextEncoderConfig(
        vocab_size=120,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        max_sequence_length=96,
    ),
    scheduler=SchedulerConfig(solver="dmd", time_shift_type="linear"),
    sample=SampleConfig(
        height=64,
        width=128,
        num_frames=33,
        steps=(1, 1, 1),
        guidance_scale=1.0,
        amplify_first_chunk=True,
    ),
)


@pytest.fixture(scope="session")
def pipeline():
    return HeliosPipeline.random(TOY)


@pytest.fixture(scope="session")
def guided():
    """The same size as Helios-Mid: UniPC and CFG-Zero*."""
    sample = dataclasses.replace(
        TOY.sample,
        steps=(2, 1, 1),
        guidance_scale=3.0,
        cfg_zero_star=True,
        zero_init_steps=1,
        amplify_first_chunk=False,
    )
    return HeliosPipeline.random(
        dataclasses.replace(TOY, scheduler=SchedulerConfig(), sample=sample)
    )
