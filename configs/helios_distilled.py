"""Helios-Distilled, 14B: three pyramid stages of two steps, no guidance.

  helios-jax sample --config helios_distilled --checkpoint checkpoints/helios-distilled \\
      --prompt "..."
"""

from helios_jax.config import HeliosConfig, SampleConfig, SchedulerConfig, to_config_dict


def recipe() -> HeliosConfig:
    """The released model's geometry, schedule and sampling defaults."""
    return HeliosConfig(
        scheduler=SchedulerConfig(solver="dmd", time_shift_type="linear"),
        sample=SampleConfig(
            num_frames=240, steps=(2, 2, 2), guidance_scale=1.0, amplify_first_chunk=True
        ),
    )


def get_config():
    return to_config_dict(recipe())
