"""helios-nano Distilled, stage 3, second half: distribution matching with Base as teacher, two
steps a stage, without guidance.

  python train.py --config configs/nano/distilled.py --config.checkpoint=checkpoints/nano-ode \\
      --config.critic.checkpoint=checkpoints/nano-base --config.data.train=data/nano
  python -m helios_jax.training.export --run runs/distilled --out checkpoints/nano-distilled

The rate is small: at 1e-4, learning at every second step, the student lost much of what its
teacher's trajectories had taught it.
"""

from helios_jax.config import to_config_dict
from helios_jax.configs.nano import ode
from helios_jax.configs.train import stage1_init
from helios_jax.training.config import CriticConfig, DistillationConfig, TrainableConfig
from helios_jax.training.levels import LevelConfig
from helios_jax.training.optimizer import OptimizerConfig

CRITIC = CriticConfig(
    trainable=TrainableConfig(rank=0, full=".*"),
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.0, b2=0.99, weight_decay=0.01),
)


def get_config():
    config = ode.get_config()
    config.objective = "distillation"
    config.task = to_config_dict(stage1_init.TASK["corrected"])
    config.corruption = to_config_dict(stage1_init.CORRUPTION["corrected"])
    config.critic = to_config_dict(CRITIC)
    config.optimizer = to_config_dict(
        OptimizerConfig(learning_rate=1e-5, b1=0.0, b2=0.99, weight_decay=0.01)
    )
    config.distillation = to_config_dict(
        DistillationConfig(
            guidance_scale=5.0, student_every=3, levels=LevelConfig(uniform_after=50)
        )
    )
    config.data.batch_size = 8
    config.ema.decay, config.ema.start = 0.9, 60
    config.steps = 120
    return config
