"""The toy's recipe, as train.py reads it: ``recipe.py:flow``, ``recipe.py:pyramid`` and so on."""

from helios_jax.config import to_config_dict
from tests.toys import toy_config


def get_config(objective: str = "flow"):
    return to_config_dict(toy_config(objective, log_every=1, save_every=2))
