"""Helios-Base, 14B: one resolution, fifty UniPC steps, guidance.

helios-jax sample --config helios_base --checkpoint checkpoints/helios-base --prompt "..."
"""

from helios_jax.config import HeliosConfig, SampleConfig, SchedulerConfig, to_config_dict


def recipe() -> HeliosConfig:
    """The released model's geometry, schedule and sampling defaults."""
    return HeliosConfig(
        scheduler=SchedulerConfig(stages=1, stage_range=(0.0, 1.0)),
        sample=SampleConfig(num_frames=99, steps=(50,), guidance_scale=5.0),
    )


def get_config():
    return to_config_dict(recipe())
