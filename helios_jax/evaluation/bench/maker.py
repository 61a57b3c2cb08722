"""The pipeline as a maker of benchmark videos."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax import checkpoint
from helios_jax.evaluation.bench.generate import Make
from helios_jax.evaluation.bench.prompts import BenchPrompt
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import Request, make_request

SHOWN = ("height", "width", "steps", "guidance_scale")
"""Fields of a request that a report always names; of the others those that the user chose."""


def load_maker(path: str | os.PathLike, request: Request) -> Callable[[], Make]:
    """What :func:`~.generate.generate_videos` needs to load a pipeline.

    Args:
      path: checkpoint directory.
      request: of every video, but for its length; prompt n has seed ``request.seed + n``.
    """

    def load() -> Make:
        pipeline = HeliosPipeline.from_checkpoint(path)

        def make(prompt: BenchPrompt) -> Iterator[np.ndarray]:
            left = prompt.frames or request.num_frames
            own = dataclasses.replace(request, num_frames=left, seed=request.seed + prompt.number)
            for chunk in pipeline.stream(prompt.text, own):
                frames = np.asarray(chunk[0])[:left]
                left -= len(frames)
                yield frames

        return make

    return load


def request_conditions(path: str | os.PathLike, request: Request) -> dict[str, Any]:
    """What a video depends on beside its prompt, as JSON has it."""
    folder = os.path.normpath(path)
    digests = Path(folder, "digests.json").read_bytes()
    weights = hashlib.sha256(digests).hexdigest()[:12]
    own = make_request(checkpoint.load_config(folder)).arguments()
    conditions: dict[str, Any] = {"checkpoint": os.path.basename(folder), "weights": weights}
    for name, value in request.arguments().items():
        if name in SHOWN or (value != own[name] and name not in ("num_frames", "seed")):
            conditions[name] = list(value) if isinstance(value, tuple) else value
    return conditions | {"seed": request.seed}
