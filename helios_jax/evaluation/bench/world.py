"""How much of a scene of the procedural world a video shows as its caption says: helios-nano's
metric, beside those of HeliosBench.

The world's judge reads each chunk of 33 frames by itself, so that the figure is a curve over time.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from helios_jax.evaluation.bench.windows import window_length
from helios_jax.evaluation.judge import ATTRIBUTES, accuracy, read_clip, score
from helios_jax.world.scenes import Scene

LEAST = 24
"""Frames that the judge needs, a second; a shorter rest at the end is left out."""


def score_world(
    pieces: Iterable[np.ndarray], scene: Scene, fps: float = 24.0, edition: int = 1
) -> dict[str, Any]:
    """Shares of attributes that are right: of all chunks, and of those at either end.

    Args:
      pieces: chunks of frames, uint8 [F, Y, X, 3].
      scene: what was asked for.
      fps: frames per second.
      edition: of the world.

    Returns:
      ``world_score``, ``start_world_score``, ``end_world_score``, ``signed_drift`` (end less
      start), ``curve`` (of chunks) and ``attributes``, right ones and all, by name.
    """
    counts = []
    for frames in pieces:
        if len(frames) >= LEAST or not counts:
            counts.append(accuracy([score(read_clip(frames, fps, edition), scene)]))
    curve = [counted["all"][0] / counted["all"][1] for counted in counts]
    length = window_length(len(curve))
    start = float(np.mean(curve[:length]))
    end = float(np.mean(curve[-length:]))
    attributes = {}
    for name in ATTRIBUTES:
        attributes[name] = [sum(counted[name][i] for counted in counts) for i in range(2)]
    return {
        "world_score": float(np.mean(curve)),
        "start_world_score": start,
        "end_world_score": end,
        "signed_drift": end - start,
        "curve": curve,
        "attributes": attributes,
    }
