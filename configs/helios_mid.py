"""Helios-Mid, 14B: three pyramid stages of twenty UniPC steps, CFG-Zero* guidance.

helios-jax sample --config helios_mid --checkpoint checkpoints/helios-mid --prompt "..."
"""

from helios_jax.config import HeliosConfig, SampleConfig, to_config_dict


def recipe() -> HeliosConfig:
    """The released model's geometry, schedule and sampling defaults."""
    return HeliosConfig(
        sample=SampleConfig(
            num_frames=99,
            steps=(20, 20, 20),
            guidance_scale=5.0,
            cfg_zero_star=True,
            zero_init_steps=2,
        )
    )


def get_config():
    return to_config_dict(recipe())
