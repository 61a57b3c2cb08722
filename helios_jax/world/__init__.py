"""The procedural world: captioned clips of simple things that move, of any length.

The same seed gives the same clips for ever. Tests, examples and the judge use them, and helios-nano
is trained on them.
"""

from helios_jax.world.captions import caption
from helios_jax.world.drawing import render
from helios_jax.world.scenes import (
    EDITIONS,
    SPLITS,
    Background,
    Object,
    Scene,
    is_held_out,
    sample_scene,
)

__all__ = [
    "EDITIONS",
    "SPLITS",
    "Background",
    "Object",
    "Scene",
    "caption",
    "is_held_out",
    "render",
    "sample_scene",
]
