"""helios-jax: Helios, the autoregressive video diffusion model, in JAX.

Making a video needs these names::

    from helios_jax import HeliosPipeline, make_request

    pipeline = HeliosPipeline.from_checkpoint("checkpoints/helios-distilled")
    frames = pipeline.generate("a sailing boat", num_frames=240, seed=1)

Beneath are pure functions: ``sampling.chunk.sample_chunk`` makes one chunk with
``models.transformer.HeliosTransformer``, and the mathematics is in ``diffusion``. Names are
imported when they are first used, so the kernels and the configuration are of use without the rest.
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names
from helios_jax.version import VERSION

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

__version__ = VERSION

_HOMES = {
    "HeliosConfig": "config",
    "HeliosError": "errors",
    "HeliosPipeline": "sampling",
    "PromptSchedule": "sampling",
    "Request": "sampling",
    "StreamFiles": "sampling",
    "StreamWriter": "sampling",
    "load_state": "sampling",
    "make_request": "sampling",
    "plan_request": "memory.sampling",
    "save_state": "sampling",
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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
