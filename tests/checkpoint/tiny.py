"""A whole Helios of toy size, and random parameters for it."""

import numpy as np
from flax.traverse_util import unflatten_dict

from helios_jax.checkpoint.layout import leaves
from helios_jax.checkpoint.names import component_slots
from helios_jax.config import HeliosConfig, TextEncoderConfig, TransformerConfig, VAEConfig

CONFIG = HeliosConfig(
    transformer=TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=8,
        ffn_dim=20,
        num_layers=3,
        rope_dim=(4, 4, 4),
    ),
    vae=VAEConfig(
        base_dim=3,
        z_dim=4,
        dim_mult=(1, 1, 1, 1),
        num_res_blocks=1,
        latents_mean=(0.1, 0.2, 0.3, 0.4),
        latents_std=(1.0, 1.1, 1.2, 1.3),
    ),
    text_encoder=TextEncoderConfig(
        vocab_size=40,
        d_model=16,
        d_kv=6,
        d_ff=18,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
    ),
)


def random_params(config: HeliosConfig, component: str, dtype=np.float32, seed: int = 0) -> dict:
    """A tree of random numpy arrays with the geometry of ``config``."""
    generator = np.random.default_rng(seed)
    shapes = {
        path: slot.leaf_shape for path, slot in leaves(component_slots(config, component)).items()
    }
    return unflatten_dict(
        {path: generator.standard_normal(shape).astype(dtype) for path, shape in shapes.items()},
        sep="/",
    )
