"""From a request to a video: one chunk, the loop over chunks, and what is written of them.

==================  ==============================================================================
module              idea
==================  ==============================================================================
``request``         what is made: one object from the flag to the compiled program to the state
``prompts``         which prompt governs which chunk
``conditioning``    the image or the video that a video starts from
``chunk``           one chunk, all stages and steps, as one compiled program
``loop``            chunk after chunk, with lookahead and control of drift
``state``           a video between two chunks, on disk
``writing``         frames, latents, statistics and states on disk while they are made
``pipeline``        the user's API
==================  ==============================================================================
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names

if TYPE_CHECKING:
    from helios_jax.sampling.chunk import ChunkPlan, Denoiser, sample_chunk, sample_stage
    from helios_jax.sampling.loop import ChunkRecord, StreamOptions
    from helios_jax.sampling.pipeline import HeliosPipeline
    from helios_jax.sampling.prompts import PromptEntry, PromptSchedule
    from helios_jax.sampling.request import Request, RequestError, make_request
    from helios_jax.sampling.state import VideoState, load_state, save_state
    from helios_jax.sampling.timing import Stopwatch
    from helios_jax.sampling.writing import StreamFiles, StreamWriter

_HOMES = {
    "ChunkPlan": "chunk",
    "ChunkRecord": "loop",
    "Denoiser": "chunk",
    "HeliosPipeline": "pipeline",
    "PromptEntry": "prompts",
    "PromptSchedule": "prompts",
    "Request": "request",
    "RequestError": "request",
    "Stopwatch": "timing",
    "StreamFiles": "writing",
    "StreamOptions": "loop",
    "StreamWriter": "writing",
    "VideoState": "state",
    "load_state": "state",
    "make_request": "request",
    "sample_chunk": "chunk",
    "sample_stage": "chunk",
    "save_state": "state",
}
"""The module of each public name."""

__all__ = [
    "ChunkPlan",
    "ChunkRecord",
    "Denoiser",
    "HeliosPipeline",
    "PromptEntry",
    "PromptSchedule",
    "Request",
    "RequestError",
    "Stopwatch",
    "StreamFiles",
    "StreamOptions",
    "StreamWriter",
    "VideoState",
    "load_state",
    "make_request",
    "sample_chunk",
    "sample_stage",
    "save_state",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
