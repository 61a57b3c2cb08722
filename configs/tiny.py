"""A Helios small enough for seconds on a laptop, with the distilled sampler.

There are no trained weights for it: they are random, by seed.
"""

from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
    to_config_dict,
)


def recipe() -> HeliosConfig:
    """Four blocks of width 128, clips of 128 x 192 pixels."""
    return HeliosConfig(
        transformer=TransformerConfig(
            num_attention_heads=4,
            attention_head_dim=32,
            rope_dim=(12, 10, 10),
            ffn_dim=512,
            num_layers=4,
            text_dim=64,
        ),
        vae=VAEConfig(base_dim=16, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
        text_encoder=TextEncoderConfig(
            vocab_size=256, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4
        ),
        scheduler=SchedulerConfig(solver="dmd", time_shift_type="linear"),
        sample=SampleConfig(
            height=128,
            width=192,
            num_frames=33,
            steps=(2, 2, 2),
            guidance_scale=1.0,
            amplify_first_chunk=True,
        ),
    )


def get_config():
    return to_config_dict(recipe())
