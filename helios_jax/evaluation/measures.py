"""Measures of frames that need no model."""

import numpy as np
from jaxtyping import UInt8

from helios_jax.media.measures import measure_frame

Frames = UInt8[np.ndarray, "F Y X 3"]
CHANNELS = ("red", "green", "blue")


def statistics(frames: Frames) -> dict[str, float]:
    """Statistics of a chunk, all from 0 to 1.

    Saturation, the mean and the standard deviation of each channel, and sharpness, as
    :mod:`helios_jax.media.measures` defines them.
    """
    rows = [measure_frame(frame)[2] for frame in frames]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    found = {"saturation": mean["saturation"]}
    for i, channel in enumerate(CHANNELS):
        found[f"{channel} mean"] = mean[channel]
        found[f"{channel} deviation"] = float(frames[..., i].std() / 255)
    return found | {"sharpness": mean["sharpness"]}


def frame_difference(a: UInt8[np.ndarray, "Y X 3"], b: UInt8[np.ndarray, "Y X 3"]) -> float:
    """Mean absolute difference of two frames, in levels of 255."""
    return float(np.abs(a.astype(np.float32) - b).mean())


def psnr(frames: UInt8[np.ndarray, "*F Y X 3"], truth: UInt8[np.ndarray, "*F Y X 3"]) -> float:
    """Peak signal-to-noise ratio, dB; 138 where the two are equal."""
    squared = np.mean((frames.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(squared, 1e-9)))
