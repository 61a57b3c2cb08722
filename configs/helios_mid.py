"""Helios-Mid, 14B: three pyramid stages of twenty UniPC steps, CFG-Zero* guidance.

python sample.py --config configs/helios_mid.py --checkpoint checkpoints/helios-mid --prompt "..."
"""

from helios_jax.config import HeliosConfig, SampleConfig, to_config_dict


def get_config():
    return to_config_dict(
        HeliosConfig(
            sample=SampleConfig(
                num_frames=99,
                steps=(20, 20, 20),
                guidance_scale=5.0,
                cfg_zero_star=True,
                zero_init_steps=2,
            )
        )
    )
