"""helios-jax: Helios, the autoregressive video diffusion model, in JAX.

Making a video needs these names::

    from helios_jax import HeliosPipeline, make_request

    pipeline = HeliosPipeline.from_checkpoint("checkpoints/helios-distilled")
    frames = pipeline.generate("a sailing boat", num_frames=240, seed=1)

Beneath are pure functions: ``sampling.chunk.sample_chunk`` makes one chunk with
``models.transformer.HeliosTransformer``, and the mathematics is in ``diffusion``. Names are
imported when they are first used, so the kernels and the configuration are of use without the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helios_jax.config import HeliosConfig
    from helios_jax.errors import HeliosError
    from helios_jax.memory.sampling import plan_request
    from helios_jax.sampling import (
        HeliosPipeline,
        PromptSchedule,
        Request,
        StreamFiles,
        StreamWriter,
        load_state,
        make_request,
        save_state,
    )

__version__ = "0.1.0"

_HOMES = {
    "HeliosConfig": "helios_jax.config",
    "HeliosError": "helios_jax.errors",
    "HeliosPipeline": "helios_jax.sampling",
    "PromptSchedule": "helios_jax.sampling",
    "Request": "helios_jax.sampling",
    "StreamFiles": "helios_jax.sampling",
    "StreamWriter": "helios_jax.sampling",
    "load_state": "helios_jax.sampling",
    "make_request": "helios_jax.sampling",
    "plan_request": "helios_jax.memory.sampling",
    "save_state": "helios_jax.sampling",
}
"""The module of each public name."""

__all__ = [
    "HeliosConfig",
    "HeliosError",
    "HeliosPipeline",
    "PromptSchedule",
    "Request",
    "StreamFiles",
    "StreamWriter",
    "load_state",
    "make_request",
    "plan_request",
    "save_state",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
