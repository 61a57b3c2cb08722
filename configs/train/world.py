"""A small model of the procedural world, from nothing, in minutes on a laptop: `train/world:flow`
(stage 1) or `train/world:pyramid` (stage 2).

  python benchmarks/learning.py          # makes the records, trains both stages, draws the curves

Noise levels lean towards the noisy end, where a caption and a history have most to say.
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
from helios_jax.data.batches import DataConfig
from helios_jax.training.config import EMAConfig, TrainableConfig, TrainConfig, ValidationConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig

TRANSFORMER = TransformerConfig(
    num_attention_heads=4,
    attention_head_dim=32,
    rope_dim=(12, 10, 10),
    ffn_dim=512,
    num_layers=6,
    text_dim=64,
    freq_dim=64,
    remat="products",
)
TEXT_ENCODER = TextEncoderConfig(
    vocab_size=512,
    d_model=64,
    d_kv=16,
    d_ff=128,
    num_layers=2,
    num_heads=4,
    max_sequence_length=128,
)
SCHEDULER = {
    "flow": SchedulerConfig(stages=1, stage_range=(0.0, 1.0)),
    "pyramid": SchedulerConfig(),
}
STEPS = {"flow": (20,), "pyramid": (10, 10, 10)}


def recipe(objective: str = "flow") -> TrainConfig:
    """All weights of a model of six blocks.

    Args:
      objective: a key of :data:`SCHEDULER`.
    """
    return TrainConfig(
        objective=objective,
        model=HeliosConfig(
            transformer=TRANSFORMER,
            vae=VAEConfig(base_dim=8, dim_mult=(1, 2, 2, 2), num_res_blocks=1),
            text_encoder=TEXT_ENCODER,
            scheduler=SCHEDULER[objective],
            sample=SampleConfig(
                height=64,
                width=128,
                num_frames=99,
                steps=STEPS[objective],
                guidance_scale=1.0,
            ),
        ),
        timesteps=TimestepConfig(density="logit_normal", logit_mean=-3.0),
        trainable=TrainableConfig(rank=0, full=".*"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            schedule="constant_with_warmup",
            warmup_steps=50,
            weight_decay=0.01,
        ),
        ema=EMAConfig(decay=0.99),
        data=DataConfig(batch_size=8),
        validation=ValidationConfig(every=50, batches=8),
        steps=400,
        seed=0,
        dtype="float32",
        save_every=200,
    )


def get_config(objective: str = "flow"):
    return to_config_dict(recipe(objective))
