"""The pipeline as a maker of benchmark videos."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax import checkpoint, nano
from helios_jax.evaluation.bench.generate import Make
from helios_jax.evaluation.bench.prompts import BenchPrompt
from helios_jax.sampling.pipeline import HeliosPipeline


def load_maker(
    path: str | os.PathLike | None, request: Mapping[str, Any], seed: int
) -> Callable[[], Make]:
    """What :func:`~.generate.generate_videos` needs to load a pipeline.

    Args:
      path: checkpoint directory; None is helios-nano.
      request: height, width, steps and guidance_scale; None where the checkpoint's hold.
      seed: prompt n gets ``seed + n``.
    """
    wanted = {name: value for name, value in request.items() if value is not None}

    def load() -> Make:
        pipeline = HeliosPipeline.from_checkpoint(path or nano.CHECKPOINT)

        def make(prompt: BenchPrompt) -> Iterator[np.ndarray]:
            left = prompt.frames or 0
            stream = pipeline.stream(
                prompt.text, num_frames=left, seed=seed + prompt.number, **wanted
            )
            for chunk in stream:
                frames = np.asarray(chunk[0])[:left]
                left -= len(frames)
                yield frames

        return make

    return load


def request_conditions(
    path: str | os.PathLike | None, request: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """What a video depends on beside its prompt, as JSON has it."""
    folder = os.path.normpath(path or nano.CHECKPOINT)
    sample = dataclasses.asdict(checkpoint.load_config(folder).sample)
    chosen = {name: sample[name] if value is None else value for name, value in request.items()}
    lists = {name: list(v) if isinstance(v, tuple) else v for name, v in chosen.items()}
    digests = Path(folder, "digests.json").read_bytes()
    weights = hashlib.sha256(digests).hexdigest()[:12]
    return {"checkpoint": os.path.basename(folder), "weights": weights, **lists, "seed": seed}
